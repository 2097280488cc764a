//! Snapshots, compressed images, bitmaps and the dirty bit, as QEMU writes them and as we do.

use std::os::unix::process::ExitStatusExt as _;

use disk::Repair;
use disk::qcow2::{CreateOptions, NewSnapshot, Parts, Qcow2};
use disk::{Disk, FileOptions, FileStorage};

use crate::changes::Changes;
use crate::workshop::{Workshop, assert_same, run};

const SIZE_BYTES: u64 = 1 << 20;

async fn open(workshop: &Workshop, image: &str) -> Qcow2<FileStorage> {
    let storage = FileOptions::new(workshop.path(image)).open().unwrap();
    Qcow2::open(storage, Parts::default()).await.unwrap()
}

/// What QEMU reads from a snapshot.
fn snapshot_content(workshop: &Workshop, image: &str, snapshot: &str) -> Vec<u8> {
    workshop.qemu_img(&format!(
        "convert -f qcow2 -O raw -l {snapshot} {image} snapshot.raw"
    ));
    std::fs::read(workshop.path("snapshot.raw")).unwrap()
}

fn snapshots_go_both_ways(options: &str, cluster_bytes: u64) {
    let workshop = Workshop::new();
    workshop.qemu_img(&format!(
        "create -q -f qcow2 -o {options} image {SIZE_BYTES}"
    ));
    let mut changes = Changes::new(SIZE_BYTES, cluster_bytes);
    workshop.qemu_change("image", &changes.draw(10));
    let first = workshop.qemu_content("image");
    workshop.qemu_img("snapshot -c theirs image");
    // Running on top of a snapshot must leave it alone.
    workshop.change("image", &changes.draw(10));
    workshop.assert_clean("image");
    let second = workshop.qemu_content("image");
    run(async {
        let disk = open(&workshop, "image").await;
        let new = NewSnapshot {
            name: "ours".to_owned(),
            ..NewSnapshot::default()
        };
        disk.create_snapshot(new).await.unwrap();
        let names: Vec<_> = disk
            .snapshots()
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        assert_eq!(names, ["theirs", "ours"]);
        disk.close().await.unwrap();
    });
    workshop.assert_clean("image");
    assert!(workshop.qemu_img("snapshot -l image").contains("ours"));
    workshop.qemu_change("image", &changes.draw(10));
    workshop.change("image", &changes.draw(10));
    workshop.assert_clean("image");
    assert_same(
        &snapshot_content(&workshop, "image", "theirs"),
        &first,
        options,
    );
    assert_same(
        &snapshot_content(&workshop, "image", "ours"),
        &second,
        options,
    );

    workshop.qemu_img("snapshot -a ours image");
    assert_same(&workshop.content("image"), &second, options);
    run(async {
        let disk = open(&workshop, "image").await;
        disk.apply_snapshot("theirs").await.unwrap();
        disk.delete_snapshot("theirs").await.unwrap();
        disk.close().await.unwrap();
    });
    assert_same(&workshop.qemu_content("image"), &first, options);
    workshop.assert_clean("image");
    workshop.qemu_img("snapshot -d ours image");
    workshop.assert_clean("image");
    assert_same(&workshop.content("image"), &first, options);
}

#[test]
fn snapshots_of_qemu_and_ours() {
    snapshots_go_both_ways("cluster_size=512", 512);
    snapshots_go_both_ways("cluster_size=4k,refcount_bits=2", 4096);
    snapshots_go_both_ways("compat=0.10", 65536);
    snapshots_go_both_ways("extended_l2=on,cluster_size=16k,refcount_bits=64", 16384);
}

/// A disk's worth of what can be compressed, a little, a lot, and not at all.
fn mixed_content() -> Vec<u8> {
    let mut state = 1_u64;
    let mut content = Vec::new();
    while content.len() < usize::try_from(SIZE_BYTES).unwrap() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let shift = 8 * (content.len() >> 16 & 7);
        content.extend((state >> shift).to_be_bytes());
    }
    content
}

#[test]
fn compressed_images_of_qemu() {
    for (kind, bytes) in [
        ("zlib", 512),
        ("zlib", 65536),
        ("zstd", 4096),
        ("zstd", 65536),
        ("zlib", 2 << 20),
    ] {
        let workshop = Workshop::new();
        let content = mixed_content();
        std::fs::write(workshop.path("plain"), &content).unwrap();
        let options = format!("compression_type={kind},cluster_size={bytes}");
        workshop.qemu_img(&format!(
            "convert -c -f raw -O qcow2 -o {options} plain image"
        ));
        assert_same(&workshop.content("image"), &content, &options);
        // Writing makes plain clusters of some of them.
        let mut content = content;
        let changes = Changes::new(SIZE_BYTES, bytes).draw(12);
        workshop.change("image", &changes);
        for change in &changes {
            change.apply(&mut content);
        }
        assert_same(&workshop.qemu_content("image"), &content, &options);
        workshop.assert_clean("image");
    }
}

#[test]
fn bitmaps_are_kept_and_not_believed_after_a_write() {
    let workshop = Workshop::new();
    workshop.qemu_img(&format!("create -q -f qcow2 image {SIZE_BYTES}"));
    workshop.qemu_change("image", &Changes::new(SIZE_BYTES, 65536).draw(5));
    workshop.qemu_img("bitmap --add image changed");
    // Looking changes nothing.
    let before = std::fs::read(workshop.path("image")).unwrap();
    workshop.content("image");
    workshop.assert_clean("image");
    assert!(
        std::fs::read(workshop.path("image")).unwrap() == before,
        "reading wrote to the image"
    );
    assert!(!workshop.qemu_img("info image").contains("in-use"));

    workshop.change("image", &Changes::new(SIZE_BYTES, 65536).draw(5));
    workshop.assert_clean("image");
    let info = workshop.qemu_img("info image");
    assert!(
        info.contains("changed") && info.contains("in-use"),
        "{info}"
    );
}

#[test]
fn image_that_qemu_left_dirty_is_repaired_when_it_is_opened() {
    for refcount_bits in [1, 16, 64] {
        let workshop = Workshop::new();
        workshop.qemu_img(&format!(
            "create -q -f qcow2 -o lazy_refcounts=on,refcount_bits={refcount_bits} image {SIZE_BYTES}"
        ));
        let killed =
            ["write -P 5 0 128k", "write -P 6 512k 64k", "flush", "abort"].map(str::to_owned);
        let output = workshop.qemu_io("image", &killed);
        assert_eq!(output.status.signal(), Some(6), "{output:?}");
        assert!(
            workshop.check("image", Repair::None).corruptions > 0,
            "not dirty"
        );

        let mut content = vec![0; usize::try_from(SIZE_BYTES).unwrap()];
        content[..128 << 10].fill(5);
        content[512 << 10..576 << 10].fill(6);
        assert_same(&workshop.content("image"), &content, "dirty");
        workshop.assert_clean("image");
        assert_same(&workshop.qemu_content("image"), &content, "repaired");
    }
}

#[test]
fn our_snapshots_have_what_qemu_shows() {
    let workshop = Workshop::new();
    workshop.create("image", &CreateOptions::new(SIZE_BYTES));
    run(async {
        let disk = open(&workshop, "image").await;
        for name in ["first", "second"] {
            let new = NewSnapshot {
                name: name.to_owned(),
                ..NewSnapshot::default()
            };
            disk.create_snapshot(new).await.unwrap();
        }
        disk.close().await.unwrap();
    });
    let list = workshop.qemu_img("snapshot -l image");
    let rows: Vec<Vec<_>> = list
        .lines()
        .skip(2)
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 2, "{list}");
    assert_eq!((rows[0][0], rows[0][1]), ("1", "first"));
    assert_eq!((rows[1][0], rows[1][1]), ("2", "second"));
}
