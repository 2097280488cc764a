//! Checks of images that QEMU made and that were then damaged, beside QEMU's own verdict.

mod damage;
mod hostile;

use super::*;
use crate::qcow2::format::Header;
use crate::qcow2::qemu::Workshop;
use crate::{Backend, Executor, SimulatedStorage};

fn executor() -> Executor {
    Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap()
}

fn check_bytes(bytes: &[u8], repair: Repair) -> (CheckReport, Vec<u8>) {
    let storage = SimulatedStorage::from_bytes(bytes, 1);
    let report = executor().run(check(&storage, repair)).unwrap();
    (report, storage.to_bytes())
}

fn header_of(bytes: &[u8]) -> Header {
    let storage = SimulatedStorage::from_bytes(bytes, 1);
    executor().run(file::read_header(&storage)).unwrap()
}

/// Images of all kinds.
const OPTIONS: [&str; 10] = [
    "compat=0.10",
    "cluster_size=512",
    "cluster_size=4096,refcount_bits=1",
    "cluster_size=4096,refcount_bits=2",
    "cluster_size=4096,refcount_bits=64",
    "cluster_size=16384,extended_l2=on,refcount_bits=32",
    "cluster_size=65536,compression_type=zstd",
    "cluster_size=2097152",
    "cluster_size=4096,data_file=data",
    "data_file=data,data_file_raw=on",
];

/// An image with data, and what its options allow of zeros, compressed clusters, snapshots and
/// bitmaps.
fn sound_image(workshop: &Workshop, options: &str) -> Vec<u8> {
    let has = |option: &str| options.contains(option);
    workshop.run(&format!("qemu-img create -f qcow2 -o {options} image 8M"));
    workshop.io("image", &["write -P 1 0 400k", "write -P 2 3M 100k"]);
    if !has("compat") {
        workshop.run("qemu-img bitmap --add -f qcow2 image changes");
        workshop.io("image", &["write -z 200k 100k"]);
    }
    if !has("refcount_bits=1") && !has("data_file") {
        let whole = has("2097152");
        let write = format!("write -c -P 3 4M {}", if whole { "2M" } else { "256k" });
        workshop.io("image", &[&write, "discard 100k 64k"]);
    }
    if !has("refcount_bits=1") && !has("refcount_bits=2") && !has("data_file") {
        workshop.run("qemu-img snapshot -c one image");
        workshop.io("image", &["write -P 4 250k 100k", "write -P 4 7M 1k"]);
        workshop.run("qemu-img snapshot -c two image");
        workshop.io("image", &["write -P 5 0 50k"]);
    }
    workshop.load("image")
}

#[test]
fn sound_images_are_clean_and_counted_as_qemu_counts() {
    let workshop = Workshop::new();
    for options in OPTIONS {
        let bytes = sound_image(&workshop, options);
        workshop.store("image", &bytes);
        let theirs = workshop.check("image");
        assert_eq!(theirs.status, 0, "{options}: {theirs:?}");
        let (ours, _) = check_bytes(&bytes, Repair::None);
        assert_eq!(ours.exit_status(), 0, "{options}: {ours:?}");
        for (field, number) in [
            ("total-clusters", ours.total_clusters),
            ("allocated-clusters", ours.allocated_clusters),
            ("compressed-clusters", ours.compressed_clusters),
            ("fragmented-clusters", ours.fragmented_clusters),
            ("image-end-offset", ours.image_end_offset),
        ] {
            assert_eq!(number, theirs.number(field), "{options}: {field}");
        }
        let (again, after) = check_bytes(&bytes, Repair::All);
        assert!(after == bytes, "{options}: a clean image was changed");
        assert_eq!(again, ours);
    }
}
