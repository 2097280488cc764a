//! New images, as we and as QEMU read them.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::reactor::{Operation, submit};
use crate::{Backend, Executor, FileOptions, SimulatedStorage};

fn simulated(seed: u64) -> (Executor, SimulatedStorage) {
    let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
    (executor, SimulatedStorage::new(0, seed))
}

fn refusal(change: impl FnOnce(&mut CreateOptions)) -> String {
    let mut options = CreateOptions::new(1 << 30);
    change(&mut options);
    let (executor, storage) = simulated(0);
    let error = executor.run(create(&storage, &options)).unwrap_err();
    assert!(storage.to_bytes().is_empty(), "something was written");
    error.to_string()
}

/// Every kind of image there is, small and large.
fn kinds() -> Vec<CreateOptions> {
    let mut kinds = vec![CreateOptions {
        version: 2,
        ..CreateOptions::new(1 << 20)
    }];
    for cluster_bits in [9, 10, 12, 14, 16, 21] {
        for refcount_bits in [1, 2, 4, 8, 16, 32, 64] {
            for size_bytes in [0, 512, 1 << 20, 1 << 30] {
                kinds.push(CreateOptions {
                    cluster_bits,
                    refcount_bits,
                    extended_l2: cluster_bits >= 14 && refcount_bits == 16,
                    lazy_refcounts: refcount_bits == 8,
                    compression: if refcount_bits == 4 {
                        Compression::Zstd
                    } else {
                        Compression::Zlib
                    },
                    ..CreateOptions::new(size_bytes)
                });
            }
        }
    }
    kinds
}

#[test]
fn what_was_made_is_what_is_read() {
    let (executor, _) = simulated(0);
    executor.run(async {
        for options in kinds() {
            let storage = SimulatedStorage::new(0, 1);
            let header = create(&storage, &options).await.unwrap();
            let bytes = storage.power_cut().to_bytes();
            let cluster = &bytes[..file::len(header.layout.cluster_bytes())];
            let read = Header::parse(cluster, bytes.len() as u64).unwrap();
            assert_eq!(read, header, "{options:?}");
        }
    });
}

#[test]
fn a_power_cut_leaves_an_image_or_none() {
    let options = CreateOptions::new(1 << 20);
    let (executor, _) = simulated(0);
    executor.run(async {
        for seed in 0..50 {
            let storage = SimulatedStorage::from_bytes(b"QFI\xfb and the rest of an image", seed);
            crate::spawn({
                let storage = storage.clone();
                let options = options.clone();
                async move { drop(create(&storage, &options).await) }
            });
            for _ in 0..20 {
                let duration_ns = 20_000;
                submit(Operation::Delay { duration_ns }).await.unwrap();
                let bytes = storage.power_cut().to_bytes();
                let has_image = bytes.starts_with(b"QFI\xfb\0\0\0\x03");
                let has_tables = bytes.get(0x10000..0x10008) == Some(&[0, 0, 0, 0, 0, 2, 0, 0]);
                assert!(!has_image || has_tables, "seed {seed}");
            }
        }
    });
}

#[test]
fn says_what_is_wrong_with_the_options() {
    for (expected, found) in [
        ("512 bytes to 2 MiB", refusal(|o| o.cluster_bits = 8)),
        ("512 bytes to 2 MiB", refusal(|o| o.cluster_bits = 22)),
        (
            "16 KiB",
            refusal(|o| (o.cluster_bits, o.extended_l2) = (12, true)),
        ),
        ("1, 2, 4, 8", refusal(|o| o.refcount_bits = 3)),
        ("versions 2 and 3", refusal(|o| o.version = 1)),
        (
            "16 bits",
            refusal(|o| (o.version, o.refcount_bits) = (2, 8)),
        ),
        (
            "lazy",
            refusal(|o| (o.version, o.lazy_refcounts) = (2, true)),
        ),
        (
            "too large",
            refusal(|o| (o.cluster_bits, o.size_bytes) = (9, 1 << 40)),
        ),
        ("8 EiB", refusal(|o| o.size_bytes = u64::MAX)),
        (
            "1023",
            refusal(|o| o.backing = Some((String::new(), "raw".into()))),
        ),
        (
            "1023",
            refusal(|o| o.backing = Some(("x".repeat(1024), "raw".into()))),
        ),
        (
            "do not fit",
            refusal(|o| {
                o.cluster_bits = 9;
                o.backing = Some(("x".repeat(500), "raw".into()));
            }),
        ),
        (
            "raw data file",
            refusal(|o| {
                o.backing = Some(("base".into(), "raw".into()));
                o.data_file = Some(("data".into(), true));
            }),
        ),
    ] {
        assert!(found.contains(expected), "{found}");
    }
}

fn qemu_img(args: &[&str], image: &Path) -> String {
    let output = Command::new("qemu-img")
        .args(args)
        .arg(image)
        .output()
        .expect("QEMU's tools are here: `cargo xtask test` installs them");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {output:?}");
    text
}

#[test]
fn qemu_finds_them_clean() {
    let executor = Executor::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image.qcow2");
    for options in kinds() {
        std::fs::write(&image, []).unwrap();
        let storage = FileOptions::new(&image).open().unwrap();
        executor.run(create(&storage, &options)).unwrap();
        storage.close();
        let checked = qemu_img(&["check", "-f", "qcow2"], &image);
        assert!(checked.contains("No errors"), "{options:?}: {checked}");
        let info = qemu_img(&["info", "-f", "qcow2", "--output=json"], &image);
        for expected in [
            format!("\"virtual-size\": {},", options.size_bytes),
            format!("\"refcount-bits\": {}", options.refcount_bits),
            format!("\"cluster-size\": {},", 1 << options.cluster_bits),
        ] {
            assert!(info.contains(&expected), "{options:?}: {info}");
        }
    }
}

#[test]
fn qemu_knows_the_names() {
    let executor = Executor::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image.qcow2");
    std::fs::write(&image, []).unwrap();
    std::fs::write(directory.path().join("data.raw"), vec![0; 1 << 20]).unwrap();
    let storage = FileOptions::new(&image).open().unwrap();
    let options = CreateOptions {
        backing: Some(("base.raw".into(), "raw".into())),
        data_file: Some(("data.raw".into(), false)),
        ..CreateOptions::new(1_000_000)
    };
    executor.run(create(&storage, &options)).unwrap();
    storage.close();
    let info = qemu_img(&["info", "-f", "qcow2", "--output=json"], &image);
    for expected in [
        "\"virtual-size\": 1000448",
        "\"backing-filename\": \"base.raw\"",
        "\"backing-filename-format\": \"raw\"",
        "\"data-file\": \"data.raw\"",
    ] {
        assert!(info.contains(expected), "{info}");
    }
}
