//! Snapshots of images of all kinds, at power cuts, and as QEMU sees them.

use super::*;
use crate::qcow2::qemu::Workshop;
use crate::qcow2::samples::{
    Range, assert_clean, content, cut_at_every_step, executor, fill, image, kinds,
};
use crate::qcow2::{CreateOptions, Parts, Qcow2};
use crate::{Buffers, Disk as _, Request, SimulatedStorage};

fn named(name: &str) -> NewSnapshot {
    NewSnapshot {
        name: name.into(),
        date_seconds: 1_700_000_000,
        ..NewSnapshot::default()
    }
}

async fn header(storage: &SimulatedStorage) -> Header {
    file::read_header(storage).await.unwrap()
}

async fn take(storage: &SimulatedStorage, name: &str) -> Result<(), Error> {
    let header = header(storage).await;
    create(storage, &header, &named(name)).await.map(drop)
}

async fn go_to(storage: &SimulatedStorage, name: &str) {
    let header = header(storage).await;
    apply(storage, &header, name).await.unwrap();
}

async fn forget(storage: &SimulatedStorage, name: &str) {
    let header = header(storage).await;
    delete(storage, &header, name).await.unwrap();
}

/// All that the disk held at a snapshot.
async fn content_at(storage: &SimulatedStorage, name: &str) -> Vec<u8> {
    let parts = Parts {
        snapshot: Some(name.into()),
        ..Parts::default()
    };
    let storage = storage.clone().read_only();
    let disk = Qcow2::open(storage, parts).await.unwrap();
    let len = disk.properties().size_bytes;
    let buffers = Buffers::zeroed(len.try_into().unwrap());
    disk.submit(Request::read(0, buffers.clone()))
        .await
        .unwrap();
    let refused = disk.submit(Request::write_zeroes(0, 512, true)).await;
    assert!(matches!(refused, Err(Error::ReadOnly { .. })));
    disk.close().await.unwrap();
    buffers.to_vec()
}

async fn assert_holds(storage: &SimulatedStorage, expected: &[u8], what: &str) {
    assert_clean(storage, what).await;
    assert!(content(storage).await == expected, "{what}: wrong content");
}

/// Contents that follow each other, on disks of 805 sectors or more.
const FIRST: [Range; 3] = [(0, 137, 1), (600, 10, 2), (804, 1, 3)];
const SECOND: [Range; 2] = [(117, 40, 4), (400, 2, 5)];
const THIRD: [Range; 2] = [(0, 1, 6), (803, 2, 7)];

/// Takes two snapshots between three contents, and goes back and forth.
async fn live(options: &CreateOptions) {
    let what = format!("{options:?}");
    let storage = image(options).await;
    fill(&storage, &FIRST).await;
    let first = content(&storage).await;
    take(&storage, "one").await.unwrap();
    assert_holds(&storage, &first, &what).await;
    fill(&storage, &SECOND).await;
    let second = content(&storage).await;
    take(&storage, "two").await.unwrap();
    fill(&storage, &THIRD).await;
    assert_clean(&storage, &what).await;
    assert!(content_at(&storage, "one").await == first, "{what}");
    assert!(content_at(&storage, "2").await == second, "{what}");
    go_to(&storage, "one").await;
    assert_holds(&storage, &first, &what).await;
    fill(&storage, &THIRD).await;
    go_to(&storage, "2").await;
    assert_holds(&storage, &second, &what).await;
    forget(&storage, "one").await;
    assert_holds(&storage, &second, &what).await;
    fill(&storage, &THIRD).await;
    let third = content(&storage).await;
    forget(&storage, "two").await;
    assert_holds(&storage, &third, &what).await;
    assert_eq!(header(&storage).await.snapshots, 0);
}

#[test]
fn each_snapshot_keeps_what_the_disk_was() {
    executor().run(async {
        for options in kinds() {
            // The disk and two snapshots make three references, or four while one is taken.
            if options.refcount_bits >= 2 {
                live(&options).await;
            }
        }
    });
}

#[test]
fn what_cannot_be_counted_is_refused_before_anything_changes() {
    executor().run(async {
        for (refcount_bits, most) in [(1, 0), (2, 2)] {
            let storage = image(&CreateOptions {
                refcount_bits,
                ..CreateOptions::new(1 << 20)
            })
            .await;
            fill(&storage, &FIRST[..1]).await;
            for n in 0..most {
                take(&storage, &format!("snapshot {n}")).await.unwrap();
            }
            let writes = storage.counters().writes;
            let error = take(&storage, "too many").await.unwrap_err();
            assert!(error.to_string().contains("cannot count"), "{error}");
            assert_eq!(storage.counters().writes, writes);
        }
    });
}

#[test]
fn what_is_no_snapshot_is_refused() {
    executor().run(async {
        let storage = image(&CreateOptions::new(1 << 20)).await;
        take(&storage, "one").await.unwrap();
        let error = take(&storage, "one").await.unwrap_err();
        assert!(error.to_string().contains("'one' already"), "{error}");
        let header = header(&storage).await;
        let error = apply(&storage, &header, "two").await.unwrap_err();
        assert!(error.to_string().contains("no snapshot 'two'"), "{error}");
        let error = delete(&storage, &header, "").await.unwrap_err();
        assert!(error.to_string().contains("no snapshot ''"), "{error}");
        let twice = NewSnapshot {
            id: Some("1".into()),
            ..named("two")
        };
        let error = create(&storage, &header, &twice).await.unwrap_err();
        assert!(error.to_string().contains("ID '1' already"), "{error}");
    });
}

#[test]
fn a_snapshot_is_as_large_as_the_disk_was() {
    executor().run(async {
        let storage = image(&CreateOptions {
            cluster_bits: 9,
            ..CreateOptions::new(1 << 20)
        })
        .await;
        fill(&storage, &FIRST).await;
        let first = content(&storage).await;
        take(&storage, "small").await.unwrap();
        resize_to(&storage, 8 << 20).await;
        fill(&storage, &[(12_000, 8, 9)]).await;
        take(&storage, "large").await.unwrap();
        let before = storage.to_bytes();
        assert!(content_at(&storage, "small").await == first);
        assert!(storage.to_bytes() == before, "the image was changed");
        resize_to(&storage, 512).await;
        assert!(content_at(&storage, "small").await == first);
        let large = content_at(&storage, "large").await;
        assert_eq!((large.len(), large[12_000 * 512]), (8 << 20, 9));
    });
}

#[test]
fn snapshots_that_cannot_be_read_are_refused() {
    executor().run(async {
        let storage = image(&CreateOptions::new(1 << 20)).await;
        take(&storage, "one").await.unwrap();
        let parts = |name: &str| Parts {
            snapshot: Some(name.into()),
            ..Parts::default()
        };
        let refusal = async |storage: SimulatedStorage, name: &str| {
            let opened = Qcow2::open(storage, parts(name)).await;
            opened.err().expect("refused").to_string()
        };
        let error = refusal(storage.clone(), "one").await;
        assert!(error.contains("'one': can only be read"), "{error}");
        let error = refusal(storage.clone().read_only(), "two").await;
        assert!(error.contains("no snapshot 'two'"), "{error}");
        // Where the L1 table is, and then, behind 40 bytes and the state's size, the disk's size.
        let table = header(&storage).await.snapshots_offset;
        for (at, word, part) in [
            (0, 1_u64, "does not start on a cluster"),
            (0, 1 << 40, "not within the file"),
            (48, 1 << 40, "too small for the disk"),
            (48, u64::MAX, "larger than 32 MiB"),
        ] {
            let damaged = SimulatedStorage::from_bytes(&storage.to_bytes(), 1);
            let word = word.to_be_bytes().to_vec();
            file::write(&damaged, table + at, word).await.unwrap();
            let error = refusal(damaged.read_only(), "one").await;
            assert!(error.contains(part), "{error}");
        }
    });
}

#[test]
fn deleting_gives_back_the_space() {
    executor().run(async {
        const MIB: usize = 1 << 20;
        let storage = image(&CreateOptions::new(16 << 20)).await;
        fill(&storage, &[(0, 8192, 1)]).await;
        let before = storage.size_bytes();
        for byte in 2..6 {
            take(&storage, "one").await.unwrap();
            fill(&storage, &[(0, 8192, byte)]).await;
            assert!(storage.size_bytes() > before + (3 << 20));
            assert!(storage.size_bytes() < before + (5 << 20));
            forget(&storage, "one").await;
        }
        let expected = [vec![5; 4 * MIB], vec![0; 12 * MIB]].concat();
        assert_holds(&storage, &expected, "").await;
    });
}

#[test]
fn a_power_cut_leaves_what_was_or_what_is_to_be() {
    let kinds = [(9, 16, false), (12, 2, false), (16, 64, true)];
    for (cluster_bits, refcount_bits, extended_l2) in kinds {
        let options = CreateOptions {
            cluster_bits,
            refcount_bits,
            extended_l2,
            ..CreateOptions::new(1 << 20)
        };
        executor().run(async {
            let storage = image(&options).await;
            fill(&storage, &[(0, 60, 1), (1000, 10, 2)]).await;
            let first = content(&storage).await;
            let same = async |left: &SimulatedStorage, cut: &str| {
                assert!(content(left).await == first, "{cut}: wrong content");
            };
            let change = async |storage: &SimulatedStorage| take(storage, "one").await.unwrap();
            cut_at_every_step(&storage, change, same).await;
            fill(&storage, &[(20, 100, 3)]).await;
            let second = content(&storage).await;
            let either = async |left: &SimulatedStorage, cut: &str| {
                let found = content(left).await;
                assert!(found == first || found == second, "{cut}: wrong content");
            };
            let change = async |storage: &SimulatedStorage| go_to(storage, "one").await;
            cut_at_every_step(&storage, change, either).await;
            let change = async |storage: &SimulatedStorage| forget(storage, "one").await;
            cut_at_every_step(&storage, change, same).await;
            assert_eq!(header(&storage).await.snapshots, 0);
        });
    }
}

#[test]
fn qemu_reads_our_snapshots() {
    let workshop = Workshop::new();
    for options in kinds().into_iter().filter(|o| o.refcount_bits >= 16) {
        let (image, first) = executor().run(async {
            let storage = image(&options).await;
            fill(&storage, &FIRST).await;
            let first = content(&storage).await;
            take(&storage, "one").await.unwrap();
            fill(&storage, &SECOND).await;
            take(&storage, "two").await.unwrap();
            (storage.to_bytes(), first)
        });
        workshop.store("image", &image);
        assert_eq!(workshop.check("image").status, 0, "{options:?}");
        let listed = workshop.run("qemu-img snapshot -l image");
        assert!(listed.contains("one") && listed.contains("two"), "{listed}");
        let found = workshop.content("-f qcow2 -l one image");
        assert!(found == first, "{options:?}");
        workshop.run("qemu-img snapshot -a one image");
        workshop.io("image", &["write -P 9 0 100k"]);
        workshop.run("qemu-img snapshot -d two image");
        assert_eq!(workshop.check("image").status, 0, "{options:?}");
    }
}

#[test]
fn we_change_snapshots_that_qemu_made() {
    let workshop = Workshop::new();
    for options in [
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=16384,extended_l2=on",
    ] {
        workshop.run(&format!("qemu-img create -f qcow2 -o {options} image 8M"));
        workshop.io("image", &["write -P 1 0 200k", "write -c -P 2 4M 256k"]);
        let first = workshop.content("-f qcow2 image");
        workshop.run("qemu-img snapshot -c one image");
        workshop.io("image", &["write -P 3 100k 300k"]);
        workshop.run("qemu-img snapshot -c two image");
        workshop.io("image", &["write -P 4 150k 1M"]);
        let storage = SimulatedStorage::from_bytes(&workshop.load("image"), 1);
        executor().run(async {
            go_to(&storage, "one").await;
            assert_holds(&storage, &first, options).await;
            forget(&storage, "one").await;
            assert_holds(&storage, &first, options).await;
            take(&storage, "three").await.unwrap();
            forget(&storage, "two").await;
            assert_holds(&storage, &first, options).await;
        });
        workshop.store("image", &storage.to_bytes());
        assert_eq!(workshop.check("image").status, 0, "{options}");
        assert!(workshop.content("-f qcow2 image") == first, "{options}");
    }
}

#[test]
fn applying_brings_back_the_size() {
    executor().run(async {
        let storage = image(&CreateOptions::new(1 << 20)).await;
        fill(&storage, &[(0, 2048, 1)]).await;
        let first = content(&storage).await;
        take(&storage, "small").await.unwrap();
        resize_to(&storage, 2 << 30).await;
        fill(&storage, &[(1 << 21, 1, 2)]).await;
        take(&storage, "large").await.unwrap();
        go_to(&storage, "small").await;
        assert_holds(&storage, &first, "small").await;
        go_to(&storage, "large").await;
        assert_clean(&storage, "large").await;
        let now = header(&storage).await;
        assert_eq!((now.size_bytes, now.l1_entries), (2 << 30, 4));
    });
}

async fn resize_to(storage: &SimulatedStorage, size_bytes: u64) {
    let header = header(storage).await;
    crate::qcow2::resize::resize(storage, &header, size_bytes, 0)
        .await
        .unwrap();
}

/// The state of a VM lies behind the disk, as if the disk were larger.
#[test]
fn vm_state_stays_with_its_snapshot() {
    executor().run(async {
        let storage = image(&CreateOptions::new(2 << 30)).await;
        fill(&storage, &[(0, 2048, 1), (1 << 21, 2048, 9)]).await;
        take(&storage, "with state").await.unwrap();
        let table = header(&storage).await.snapshots_offset;
        // The fixed fields have 40 bytes; then come the state's size and the disk's.
        let sizes = [1u64 << 20, 1 << 20].map(u64::to_be_bytes).concat();
        file::write(&storage, table + 40, sizes).await.unwrap();
        resize_to(&storage, 1 << 20).await;
        assert_holds(&storage, &vec![1; 1 << 20], "shrunk").await;
        take(&storage, "other").await.unwrap();
        go_to(&storage, "with state").await;
        assert_holds(&storage, &vec![1; 1 << 20], "applied").await;
        assert_eq!(header(&storage).await.l1_entries, 1);
        forget(&storage, "other").await;
        let kept = &list(&storage, &header(&storage).await).await.unwrap()[0];
        assert_eq!((kept.vm_state_bytes, kept.l1_entries), (1 << 20, 4));
        assert_clean(&storage, "the state is still counted").await;
        let state = storage.to_bytes();
        assert!(
            state
                .windows(4096)
                .step_by(4096)
                .any(|page| page == [9; 4096])
        );
    });
}
