//! Disks that grow and shrink.

use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

use tempfile::NamedTempFile;

use super::*;
use crate::qcow2::qemu::Workshop;
use crate::qcow2::samples::{
    SEED, assert_clean, content, cut_at_every_step, executor, fill, image, kinds,
};
use crate::qcow2::snapshot::{self, NewSnapshot};
use crate::qcow2::{CreateOptions, Parts, Qcow2, create};
use crate::{Buffers, Disk, Executor, FileOptions, Raw, Request, SimulatedStorage};

async fn header(storage: &SimulatedStorage) -> Header {
    file::read_header(storage).await.unwrap()
}

async fn resize_to(storage: &SimulatedStorage, size_bytes: u64) -> Result<Header, Error> {
    let header = header(storage).await;
    resize(storage, &header, size_bytes, 0).await
}

async fn take(storage: &SimulatedStorage) {
    let new = NewSnapshot {
        name: "before".into(),
        ..NewSnapshot::default()
    };
    let header = header(storage).await;
    snapshot::create(storage, &header, &new).await.unwrap();
}

async fn restore(storage: &SimulatedStorage) {
    let header = header(storage).await;
    snapshot::apply(storage, &header, "before").await.unwrap();
}

/// Shrinks to half, grows to several times the size, and looks at everything.
async fn shrink_and_grow(options: &CreateOptions) {
    let what = format!("{options:?}");
    let storage = image(options).await;
    fill(&storage, &[(0, 805, 1)]).await;
    let full = content(&storage).await;
    let has_snapshot = options.version == 3 && options.refcount_bits > 1;
    if has_snapshot {
        take(&storage).await;
    }
    let cluster_bytes = 1 << options.cluster_bits;
    let small = (options.size_bytes / 2 / cluster_bytes).max(1) * cluster_bytes;
    let header = resize_to(&storage, small).await.unwrap();
    assert_eq!(header.size_bytes, small, "{what}");
    assert_clean(&storage, &what).await;
    let mut expected = full[..file::len(small)].to_vec();
    assert!(content(&storage).await == expected, "{what}: shrunk");
    let large = options.size_bytes * 5 + 512;
    resize_to(&storage, large).await.unwrap();
    assert_clean(&storage, &what).await;
    expected.resize(file::len(large), 0);
    assert!(content(&storage).await == expected, "{what}: grown");
    fill(&storage, &[(large / 512 - 1, 1, 2)]).await;
    assert_clean(&storage, &what).await;
    if has_snapshot {
        restore(&storage).await;
        assert_clean(&storage, &what).await;
        assert!(content(&storage).await == full, "{what}: restored");
    }
}

#[test]
fn what_is_kept_stays_and_what_is_added_is_zero() {
    executor().run(async {
        for options in kinds() {
            shrink_and_grow(&options).await;
        }
    });
}

#[test]
fn shrinking_gives_back_the_space() {
    let file = NamedTempFile::new().unwrap();
    let allocated_bytes = || file.as_file().metadata().unwrap().blocks() * 512;
    Executor::new().unwrap().run(async {
        let storage = FileOptions::new(file.path()).open().unwrap();
        let header = create(&storage, &CreateOptions::new(8 << 20))
            .await
            .unwrap();
        let disk = Qcow2::open(storage, Parts::default()).await.unwrap();
        let write = Request::write(0, Buffers::from_vec(vec![1; 8 << 20]));
        disk.submit(write).await.unwrap();
        disk.close().await.unwrap();
        drop(disk);
        assert!(allocated_bytes() >= 8 << 20);
        let storage = FileOptions::new(file.path()).open().unwrap();
        let now = file::read_header(&storage).await.unwrap();
        assert_eq!(now.size_bytes, header.size_bytes);
        resize(&storage, &now, 1 << 20, 0).await.unwrap();
        assert!(allocated_bytes() < 3 << 20);
    });
}

#[test]
fn the_same_size_changes_nothing() {
    executor().run(async {
        let storage = image(&CreateOptions::new(1 << 20)).await;
        let writes = storage.counters().writes;
        resize_to(&storage, (1 << 20) - 511).await.unwrap();
        assert_eq!(storage.counters().writes, writes, "rounded up");
    });
}

#[test]
fn refuses_sizes_that_cannot_be() {
    executor().run(async {
        let small = CreateOptions {
            cluster_bits: 9,
            ..CreateOptions::new(1 << 20)
        };
        let storage = image(&small).await;
        let error = resize_to(&storage, 1 << 40).await.unwrap_err().to_string();
        assert!(error.contains("too large for its cluster size"), "{error}");
        let error = resize_to(&storage, u64::MAX).await.unwrap_err().to_string();
        assert!(error.contains("8 EiB"), "{error}");
        let old = CreateOptions {
            version: 2,
            ..CreateOptions::new(1 << 20)
        };
        let storage = image(&old).await;
        take(&storage).await;
        let error = resize_to(&storage, 2 << 20).await.unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
    });
}

/// A disk of three MiB that begins with a backing file's first MiB.
async fn above_backing(options: &CreateOptions) -> Result<Vec<u8>, Error> {
    let backing = vec![9; 2 << 20];
    let backing = Rc::new(Raw::new(SimulatedStorage::from_bytes(&backing, SEED)).unwrap());
    let storage = image(options).await;
    let now = header(&storage).await;
    resize(&storage, &now, 3 << 20, 2 << 20).await?;
    assert_clean(&storage, &format!("{options:?}")).await;
    let parts = Parts {
        backing: Some(backing),
        ..Parts::default()
    };
    let disk = Qcow2::open(storage.clone(), parts).await.unwrap();
    let buffers = Buffers::zeroed(3 << 20);
    disk.submit(Request::read(0, buffers.clone())).await?;
    Ok(buffers.to_vec())
}

#[test]
fn a_longer_backing_file_does_not_show() {
    executor().run(async {
        for (cluster_bits, extended_l2) in [(9, false), (16, false), (16, true)] {
            let options = CreateOptions {
                cluster_bits,
                extended_l2,
                backing: Some(("base".into(), "raw".into())),
                ..CreateOptions::new(1 << 20)
            };
            let found = above_backing(&options).await.unwrap();
            assert!(found == [vec![9; 1 << 20], vec![0; 2 << 20]].concat());
        }
        let old = CreateOptions {
            version: 2,
            backing: Some(("base".into(), "raw".into())),
            ..CreateOptions::new(1 << 20)
        };
        let error = above_backing(&old).await.unwrap_err().to_string();
        assert!(error.contains("version 2 cannot hide"), "{error}");
    });
}

#[test]
fn a_power_cut_leaves_one_size_or_the_other() {
    for (cluster_bits, refcount_bits) in [(9, 16), (12, 1), (16, 64)] {
        let options = CreateOptions {
            cluster_bits,
            refcount_bits,
            ..CreateOptions::new(1 << 20)
        };
        executor().run(async {
            let storage = image(&options).await;
            fill(&storage, &[(0, 100, 1), (1500, 10, 2)]).await;
            let full = content(&storage).await;
            let half = &full[..1 << 19];
            let one_or_other = async |left: &SimulatedStorage, cut: &str| {
                let found = content(left).await;
                let larger = [half, &vec![0; 3 << 19]].concat();
                let right = found == full || found == half || found == larger;
                assert!(right, "{cut}: wrong content");
            };
            let shrink = async |s: &SimulatedStorage| drop(resize_to(s, 1 << 19).await.unwrap());
            cut_at_every_step(&storage, shrink, one_or_other).await;
            let grow = async |s: &SimulatedStorage| drop(resize_to(s, 1 << 21).await.unwrap());
            cut_at_every_step(&storage, grow, one_or_other).await;
        });
    }
}

#[test]
fn qemu_agrees() {
    let workshop = Workshop::new();
    for options in [
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=16384,extended_l2=on",
    ] {
        workshop.run(&format!("qemu-img create -f qcow2 -o {options} image 4M"));
        workshop.io("image", &["write -P 1 0 2M", "write -P 2 3M 1M"]);
        let storage = SimulatedStorage::from_bytes(&workshop.load("image"), SEED);
        for size_bytes in [3 << 20, 64 << 20] {
            executor().run(resize_to(&storage, size_bytes)).unwrap();
            workshop.store("image", &storage.to_bytes());
            assert_eq!(workshop.check("image").status, 0, "{options}");
        }
        let mut expected = [vec![1; 2 << 20], vec![0; 1 << 20]].concat();
        expected.resize(64 << 20, 0);
        assert!(workshop.content("-f qcow2 image") == expected, "{options}");
    }
}
