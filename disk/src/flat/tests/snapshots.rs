//! Snapshots: what they keep, what they cost, and what becomes of places.

use std::ops::Range;

use super::behaviour::{flush, read, write};
use super::compact::{BLOCK_BYTES, BLOCK_SECTORS, CHUNK_BITS, discard, rig, stamps, submit};
use super::rig::{Image, Rig, sectors_of, simulated};
use crate::flat::{Flat, NewSnapshot, Parts, Snapshot, read_header};
use crate::rng::Rng;
use crate::storage::Recording;
use crate::{
    Backend, Buffers, Disk, Error, Executor, Fault, FaultyOperation, Order, Request,
    SimulatedStorage, Storage as _,
};

const CHUNK_BYTES: u64 = 1 << CHUNK_BITS;

pub(super) async fn take(disk: &Image, name: &str) -> Result<(), Error> {
    let new = NewSnapshot {
        name: name.to_owned(),
        date_seconds: 1_700_000_000,
        date_ns: 5,
    };
    disk.create_snapshot(new).await
}

async fn zero(disk: &Image, blocks: Range<u64>, unmap: bool) {
    let len = (blocks.end - blocks.start) * BLOCK_BYTES;
    let request = Request::write_zeroes(blocks.start * BLOCK_BYTES, len, unmap);
    disk.submit(request).await.unwrap();
}

/// What the disk had at a snapshot.
async fn at(rig: &Rig, id_or_name: &str) -> Vec<u64> {
    sectors_of(&rig.open_snapshot(id_or_name).await.unwrap()).await
}

async fn reopen(rig: &Rig, disk: Image) -> Image {
    disk.close().await.unwrap();
    let report = rig.check().await;
    assert_eq!(report.exit_status(), 0, "{report:#?}");
    rig.open().await.unwrap()
}

/// Changes the disk in all ways there are. Its chunks have four blocks.
async fn change(disk: &Image, stamp: u64) {
    write(disk, 1, stamp).await;
    write(disk, 9, stamp).await;
    discard(disk, 4..8).await;
    discard(disk, 13..15).await;
    zero(disk, 16..20, true).await;
    zero(disk, 20..24, false).await;
    zero(disk, 25..27, true).await;
    // From within a block to within another.
    let zeros = Request::write_zeroes(28 * BLOCK_BYTES + 512, 2 * BLOCK_BYTES, false);
    disk.submit(zeros).await.unwrap();
    let data = crate::test_support::content::bytes_of(&[stamp; 40]);
    let across = Request::write(34 * BLOCK_BYTES + 1024, Buffers::from_vec(data));
    disk.submit(across).await.unwrap();
    write(disk, 44, stamp).await;
}

#[test]
fn a_snapshot_reads_as_the_disk_did() {
    for (order, places) in [
        (Order::Journal, None),
        (Order::Ordered, Some(60)),
        (Order::Unsafe, None),
    ] {
        simulated(1, async || {
            let rig = rig(order, 48, 30, places).await;
            let mut disk = rig.open().await.unwrap();
            for block in [0, 3, 4, 12, 14, 17, 21, 26, 28, 30, 33, 35, 38] {
                write(&disk, block, block + 100).await;
            }
            let first = sectors_of(&disk).await;
            take(&disk, "first").await.unwrap();
            assert!(sectors_of(&disk).await == first);
            change(&disk, 7).await;
            disk.resize(36 * BLOCK_BYTES + 1024).await.unwrap();
            let second = sectors_of(&disk).await;
            take(&disk, "second").await.unwrap();
            disk.resize(60 * BLOCK_BYTES).await.unwrap();
            write(&disk, 59, 9).await;
            change(&disk, 8).await;
            let last = sectors_of(&disk).await;
            for (name, expected) in [("first", &first), ("2", &second)] {
                disk = reopen(&rig, disk).await;
                assert!(sectors_of(&disk).await == last, "before {name}");
                disk.close().await.unwrap();
                assert!(at(&rig, name).await == *expected, "{name}");
                disk = rig.open().await.unwrap();
                disk.apply_snapshot(name).await.unwrap();
                assert!(sectors_of(&disk).await == *expected, "{name}");
                disk.resize(60 * BLOCK_BYTES).await.unwrap();
                change(&disk, 10).await;
                disk = reopen(&rig, disk).await;
                disk.apply_snapshot(name).await.unwrap();
                disk = reopen(&rig, disk).await;
                assert!(sectors_of(&disk).await == *expected, "{name}, again");
                disk.apply_snapshot("second").await.unwrap();
                disk.resize(60 * BLOCK_BYTES).await.unwrap();
                write(&disk, 59, 9).await;
                change(&disk, 8).await;
                assert!(sectors_of(&disk).await == last, "after {name}");
            }
            for name in ["second", "first"] {
                disk.delete_snapshot(name).await.unwrap();
                assert!(sectors_of(&disk).await == last, "without {name}");
                disk = reopen(&rig, disk).await;
            }
            assert_eq!(disk.header().snapshots, None);
            disk.close().await.unwrap();
        });
    }
}

/// An image of 16 chunks that are full, and the places that they have.
async fn full(order: Order, places: Option<u64>) -> (Rig, Image) {
    let rig = rig(order, 64, 0, places).await;
    let disk = rig.open().await.unwrap();
    for block in 0..64 {
        write(&disk, block, block + 1).await;
    }
    (rig, disk)
}

/// All that a snapshot has of the image's bytes, and what is said of it.
async fn kept(rig: &Rig) -> Vec<u8> {
    let header = read_header(&rig.image).await.unwrap();
    let bytes = rig.image.to_bytes();
    let part = |part: &Range<u64>| {
        let index = |n: u64| usize::try_from(n).unwrap();
        bytes[index(part.start)..index(part.end)].to_vec()
    };
    let parts = header.snapshots.as_ref().unwrap();
    let snapshots = crate::flat::snapshots(&rig.image, &header).await.unwrap();
    let chunks = header.chunks.as_ref().unwrap();
    // The 16 chunks had the first places.
    let data = header.data_offset..header.data_offset + 16 * CHUNK_BYTES;
    let copies = snapshots
        .iter()
        .flat_map(|one| [part(&one.table(chunks)), part(&one.bitmap(&header))]);
    [part(&parts.directory), part(&parts.counts), part(&data)]
        .into_iter()
        .chain(copies)
        .flatten()
        .collect()
}

#[test]
fn running_writes_nothing_of_what_snapshots_have() {
    for order in [Order::Journal, Order::Ordered] {
        simulated(1, async || {
            let (rig, disk) = full(order, None).await;
            take(&disk, "one").await.unwrap();
            let parts = disk.header().snapshots;
            let before = kept(&rig).await;
            for round in 0..3 {
                change(&disk, round).await;
                zero(&disk, 48..64, round == 1).await;
                flush(&disk).await;
                discard(&disk, 40..60).await;
                assert!(kept(&rig).await == before, "round {round}");
            }
            assert_eq!(disk.header().snapshots, parts);
            disk.close().await.unwrap();
            assert!(kept(&rig).await == before, "closed");
        });
    }
}

/// Metadata is all that is read and written: data could not be.
#[test]
fn snapshots_come_and_go_without_a_look_at_data() {
    simulated(1, async || {
        let (rig, disk) = full(Order::Journal, Some(64)).await;
        flush(&disk).await;
        let mut disk = reopen(&rig, disk).await;
        let data = disk.header().data_offset;
        rig.image.make_unreadable(data..data + 16 * CHUNK_BYTES);
        let before = rig.image.counters();
        take(&disk, "one").await.unwrap();
        let written = rig.image.counters().written_bytes - before.written_bytes;
        // A page each of the table, the bitmap, the directory and the counts, and the header.
        assert!(written <= 4 * 4096 + 512, "{written}");
        disk.apply_snapshot("one").await.unwrap();
        disk.delete_snapshot("one").await.unwrap();
        let read_bytes = rig.image.counters().read_bytes - before.read_bytes;
        assert!(read_bytes < 256 << 10, "{read_bytes}");
        disk = reopen(&rig, disk).await;
        assert_eq!(disk.header().snapshots, None);
    });
}

/// The host keeps some of what it is given.
#[test]
fn what_only_a_snapshot_has_is_given_back_with_it() {
    simulated(1, async || {
        let (rig, mut disk) = full(Order::Journal, None).await;
        let mut given_back = 0;
        for round in 0..16 {
            take(&disk, "one").await.unwrap();
            for chunk in 0..12 {
                write(&disk, 4 * chunk, 900 + chunk + round).await;
            }
            disk = reopen(&rig, disk).await;
            let before = rig.image.allocated_bytes();
            // Four are shared: they stay.
            disk.delete_snapshot("one").await.unwrap();
            disk = reopen(&rig, disk).await;
            let after = rig.image.allocated_bytes();
            given_back += u32::from(after + 12 * CHUNK_BYTES <= before);
            for block in 0..64 {
                let stamp = if block < 48 && block % 4 == 0 {
                    900 + block / 4 + round
                } else {
                    block + 1
                };
                assert_eq!(read(&disk, block * BLOCK_SECTORS).await, stamp);
            }
        }
        assert!(given_back > 0);
    });
}

#[test]
fn places_of_a_deleted_snapshot_are_used_again() {
    simulated(1, async || {
        let (rig, disk) = full(Order::Journal, Some(40)).await;
        for name in ["one", "two", "three", "four", "five"] {
            take(&disk, name).await.unwrap();
            for chunk in 0..12 {
                write(&disk, 4 * chunk, chunk).await;
            }
            disk.delete_snapshot(name).await.unwrap();
        }
        disk.close().await.unwrap();
        assert_eq!(rig.check().await.exit_status(), 0);
    });
}

#[test]
fn going_back_gives_back_what_only_the_disk_had() {
    simulated(1, async || {
        let (rig, disk) = full(Order::Journal, Some(40)).await;
        take(&disk, "one").await.unwrap();
        for round in 0..5 {
            for chunk in 0..12 {
                write(&disk, 4 * chunk, round).await;
            }
            disk.apply_snapshot("one").await.unwrap();
        }
        assert_eq!(stamps(&disk).await, (1..=64).collect::<Vec<_>>());
        disk.close().await.unwrap();
        assert_eq!(rig.check().await.exit_status(), 0);
    });
}

/// A write to a part of a shared chunk is one record beside its data.
#[test]
fn a_write_to_a_shared_chunk_costs_one_sync_with_a_journal_and_two_without() {
    for (order, expected) in [(Order::Journal, 1), (Order::Ordered, 2)] {
        simulated(1, async || {
            let (_rig, disk) = full(order, None).await;
            take(&disk, "one").await.unwrap();
            write(&disk, 60, 1).await;
            flush(&disk).await;
            for (block, expected) in [(0, expected), (1, 1), (4, expected)] {
                let before = disk.statistics().host_syncs;
                write(&disk, block, 7).await;
                flush(&disk).await;
                let syncs = disk.statistics().host_syncs - before;
                assert_eq!(syncs, expected, "{order}: block {block}");
            }
        });
    }
}

/// The power is cut at every step of a write to two shared chunks, and its flush.
#[test]
fn what_is_copied_from_a_snapshot_is_as_durable_as_what_is_written() {
    for order in [Order::Journal, Order::Ordered] {
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
        let (rig, mut recording) = executor.run(async {
            let (rig, disk) = full(order, None).await;
            take(&disk, "one").await.unwrap();
            write(&disk, 63, 64).await;
            flush(&disk).await;
            let recording = Recording::start(&[&rig.image]);
            write(&disk, 1, 900).await;
            write(&disk, 7, 901).await;
            flush(&disk).await;
            (rig, recording)
        });
        let mut rng = Rng::new(1);
        let (old, mut new): (Vec<u64>, Vec<u64>) = ((1..=64).collect(), (1..=64).collect());
        (new[1], new[7]) = (900, 901);
        for step in 0..=recording.steps() {
            for _ in 0..40 {
                let left = recording.power_cut(step, rng.next()).remove(0);
                let left = rig.after_cut(left);
                executor.run(async {
                    let disk = left.open().await.unwrap();
                    for (block, stamp) in stamps(&disk).await.into_iter().enumerate() {
                        let is_known = stamp == old[block] || stamp == new[block];
                        assert!(is_known, "{order}, step {step}: block {block} has {stamp}");
                        let is_flushed = step == recording.steps();
                        assert!(!is_flushed || stamp == new[block], "{order}: block {block}");
                    }
                    disk.close().await.unwrap();
                    let kept = at(&left, "one").await;
                    assert!(kept.iter().step_by(8).eq(&old), "{order}, step {step}");
                });
            }
        }
    }
}

#[test]
fn what_is_no_snapshot_is_refused() {
    simulated(1, async || {
        let rig = rig(Order::Journal, 16, 0, None).await;
        let disk = rig.open().await.unwrap();
        take(&disk, "1").await.unwrap();
        take(&disk, &"x".repeat(255)).await.unwrap();
        for (name, problem) in [
            ("", "1 to 255 bytes"),
            (&"x".repeat(256), "1 to 255 bytes"),
            ("1", "has a snapshot '1' already"),
        ] {
            let error = take(&disk, name).await.unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
        for name in ["3", "none", "", "x"] {
            let expected = format!("has no snapshot '{name}'");
            let error = disk.apply_snapshot(name).await.unwrap_err();
            assert!(error.to_string().contains(&expected), "{error}");
            let error = disk.delete_snapshot(name).await.unwrap_err();
            assert!(error.to_string().contains(&expected), "{error}");
        }
        let parts = Parts {
            snapshot: Some("1".to_owned()),
            ..Parts::default()
        };
        disk.close().await.unwrap();
        let Err(error) = Flat::open(rig.image.clone(), parts).await else {
            panic!("it was opened");
        };
        assert!(error.to_string().contains("can only be read"), "{error}");
        let Err(error) = rig.open_snapshot("none").await else {
            panic!("it was opened");
        };
        assert!(error.to_string().contains("no snapshot 'none'"), "{error}");
        let snapshot = rig.open_snapshot("1").await.unwrap();
        let written = submit(&snapshot, 0, 1).await;
        assert!(matches!(written, Err(Error::ReadOnly { .. })));
    });
}

/// The names are numbers, too. What is deleted does not come back.
#[test]
fn a_snapshot_is_found_by_its_number_first_and_deleted_by_its_name() {
    simulated(1, async || {
        let rig = rig(Order::Journal, 16, 0, None).await;
        let disk = rig.open().await.unwrap();
        for name in ["3", "2", "1"] {
            write(&disk, 0, name.parse().unwrap()).await;
            take(&disk, name).await.unwrap();
        }
        disk.apply_snapshot("3").await.unwrap();
        assert_eq!(read(&disk, 0).await, 1);
        disk.delete_snapshot("3").await.unwrap();
        let left = |disk: &Image| {
            disk.snapshots()
                .iter()
                .map(|one| one.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(left(&disk), [2, 3]);
        disk.delete_snapshot("3").await.unwrap();
        assert_eq!(left(&disk), [2]);
        disk.close().await.unwrap();
    });
}

#[test]
fn what_is_not_compact_says_what_to_do() {
    simulated(1, async || {
        let rig = super::behaviour::rig(Order::Journal, false).await;
        let disk = rig.open().await.unwrap();
        let message = take(&disk, "one").await.unwrap_err().to_string();
        for part in ["not compact", "image create -b", "compact=on"] {
            assert!(message.contains(part), "{message}");
        }
        for error in [
            disk.apply_snapshot("one").await.unwrap_err(),
            disk.delete_snapshot("one").await.unwrap_err(),
        ] {
            assert!(error.to_string().contains("no snapshot 'one'"), "{error}");
        }
        assert_eq!(disk.snapshots(), []);
    });
}

#[test]
fn an_image_has_1024_snapshots_at_most() {
    simulated(1, async || {
        let rig = rig(Order::Unsafe, 16, 0, None).await;
        let disk = rig.open().await.unwrap();
        for number in 0..1024 {
            write(&disk, number % 16, number).await;
            take(&disk, &format!("{number:0255}")).await.unwrap();
        }
        let error = take(&disk, "more").await.unwrap_err();
        assert!(error.to_string().contains("1024 snapshots"), "{error}");
        let disk = reopen(&rig, disk).await;
        let found = disk.snapshots();
        assert_eq!((found.len(), found[1023].id), (1024, 1024));
        disk.delete_snapshot("1024").await.unwrap();
        // The numbers of those that are left stay.
        disk.delete_snapshot("1").await.unwrap();
        take(&disk, "more").await.unwrap();
        assert_eq!(disk.snapshots()[1022].name, "more");
        disk.close().await.unwrap();
        let kept = at(&rig, &format!("{:0255}", 500)).await;
        let block = |n: u64| kept[usize::try_from(n * BLOCK_SECTORS).unwrap()];
        assert_eq!((block(500 % 16), block(501 % 16)), (500, 485));
    });
}

/// Snapshots stand on the base as the disk does, and longer.
#[test]
fn the_base_stays_as_long_as_there_are_snapshots() {
    simulated(1, async || {
        let rig = rig(Order::Journal, 16, 8, None).await;
        let disk = rig.open().await.unwrap();
        take(&disk, "one").await.unwrap();
        for block in 0..8 {
            write(&disk, block, 7).await;
        }
        for error in [
            disk.set_base(None).await.unwrap_err(),
            disk.set_base(rig.base_reference()).await.unwrap_err(),
            disk.empty().await.unwrap_err(),
        ] {
            let message = error.to_string();
            assert!(message.contains("delete them first"), "{message}");
        }
        let disk = reopen(&rig, disk).await;
        assert!(disk.header().base.is_some());
        disk.close().await.unwrap();
        let kept = at(&rig, "one").await;
        assert!(kept[..64].iter().all(|stamp| *stamp == 2));
        let disk = rig.open().await.unwrap();
        disk.delete_snapshot("one").await.unwrap();
        let disk = reopen(&rig, disk).await;
        assert_eq!(disk.header().base, None);
    });
}

/// What is copied there could differ from what another copy of the same place has.
#[test]
fn nothing_is_copied_from_the_base_into_a_shared_place() {
    simulated(1, async || {
        let mut rig = rig(Order::Journal, 16, 16, None).await;
        let disk = rig.open().await.unwrap();
        write(&disk, 0, 7).await;
        take(&disk, "one").await.unwrap();
        disk.close().await.unwrap();
        rig.copying.on_read = true;
        let disk = rig.open().await.unwrap();
        let place = disk.header().data_offset;
        let content = async || {
            let bytes = Buffers::zeroed(usize::try_from(CHUNK_BYTES).unwrap());
            rig.image.read_at(place, bytes.clone()).await.unwrap();
            bytes.to_vec()
        };
        let before = content().await;
        assert_eq!(read(&disk, BLOCK_SECTORS).await, 2);
        assert_eq!(disk.missing_blocks(), 14);
        assert_eq!(
            (read(&disk, 0).await, read(&disk, BLOCK_SECTORS).await),
            (7, 2)
        );
        assert!(content().await == before);
        let disk = reopen(&rig, disk).await;
        assert_eq!((read(&disk, 0).await, disk.missing_blocks()), (7, 14));
    });
}

/// As many places as the table has room for are shared, and as many again are the disk's.
#[test]
fn each_chunk_has_its_place_once_the_snapshots_are_gone() {
    for keeps_one in [false, true] {
        simulated(1, async || {
            let rig = rig(Order::Unsafe, 4096, 0, None).await;
            let disk = rig.open().await.unwrap();
            let fill = async |stamp: u64| {
                for chunk in 0..1024 {
                    submit(&disk, chunk * 4, stamp + chunk).await.unwrap();
                }
            };
            if keeps_one {
                take(&disk, "empty").await.unwrap();
            }
            fill(1).await;
            take(&disk, "one").await.unwrap();
            fill(5000).await;
            disk.delete_snapshot("one").await.unwrap();
            let disk = reopen(&rig, disk).await;
            let found = stamps(&disk).await;
            assert!((0..1024).all(|n| found[n * 4] == 5000 + n as u64));
            // Those that are free are used first.
            discard(&disk, 0..4096).await;
            assert!(stamps(&disk).await.iter().all(|stamp| *stamp == 0));
            submit(&disk, 0, 1).await.unwrap();
            assert_eq!(disk.snapshots().len(), usize::from(keeps_one));
            take(&disk, "two").await.unwrap();
            disk.delete_snapshot("two").await.unwrap();
            assert_eq!(disk.header().snapshots.is_some(), keeps_one);
            disk.close().await.unwrap();
            assert_eq!(rig.check().await.exit_status(), 0);
        });
    }
}

/// A disk that ends within a block of a place that is shared with a larger one.
#[test]
fn a_disk_grows_beside_what_a_snapshot_has_behind_its_end() {
    for (order, places) in [(Order::Journal, None), (Order::Ordered, Some(40))] {
        simulated(1, async || {
            let (rig, disk) = full(order, places).await;
            let data = crate::test_support::content::bytes_of(&[77; 8]);
            let request = Request::write(10 * BLOCK_BYTES, Buffers::from_vec(data));
            disk.submit(request).await.unwrap();
            let first = sectors_of(&disk).await;
            take(&disk, "one").await.unwrap();
            disk.resize(10 * BLOCK_BYTES + 1024).await.unwrap();
            take(&disk, "two").await.unwrap();
            disk.resize(64 * BLOCK_BYTES).await.unwrap();
            let mut expected = first.clone();
            expected[82..].fill(0);
            assert!(sectors_of(&disk).await == expected);
            let disk = reopen(&rig, disk).await;
            assert!(sectors_of(&disk).await == expected);
            disk.close().await.unwrap();
            assert!(at(&rig, "one").await == first);
            assert!(at(&rig, "two").await == first[..82]);
        });
    }
}

/// Whether an image has snapshot `name`, and what its disk has.
async fn state(rig: &Rig, name: &str) -> (bool, Vec<u64>) {
    let disk = rig.open().await.unwrap();
    let has = disk.snapshots().iter().any(|one| one.name == name);
    let content = sectors_of(&disk).await;
    disk.close().await.unwrap();
    (has, content)
}

/// What becomes of an image whose power is cut at every step of a change.
fn cut(places: Option<u64>, change: &impl AsyncFn(&Image)) {
    let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
    let (rig, mut recording, before, after, kept) = executor.run(async {
        let rig = rig(Order::Journal, 32, 8, places).await;
        let disk = rig.open().await.unwrap();
        for block in [0, 5, 10, 20] {
            write(&disk, block, block + 50).await;
        }
        take(&disk, "kept").await.unwrap();
        for block in [1, 10, 30] {
            write(&disk, block, block + 70).await;
        }
        disk.resize(40 * BLOCK_BYTES).await.unwrap();
        disk.close().await.unwrap();
        let before = state(&rig, "new").await;
        let kept = at(&rig, "kept").await;
        let disk = rig.open().await.unwrap();
        let recording = Recording::start(&[&rig.image]);
        change(&disk).await;
        disk.close().await.unwrap();
        let after = state(&rig, "new").await;
        (rig, recording, before, after, kept)
    });
    let mut rng = Rng::new(1);
    for step in 0..=recording.steps() {
        for _ in 0..3 {
            let left = recording.power_cut(step, rng.next()).remove(0);
            let left = rig.after_cut(left);
            executor.run(async {
                let report = left.check().await;
                assert_eq!(report.corruptions, 0, "step {step}: {report:#?}");
                let found = state(&left, "new").await;
                assert!(found == before || found == after, "step {step}");
                let header = read_header(&left.image).await.unwrap();
                for one in crate::flat::snapshots(&left.image, &header).await.unwrap() {
                    let expected = if one.name == "kept" { &kept } else { &before.1 };
                    assert!(at(&left, &one.name).await == *expected, "step {step}");
                }
                let repaired = crate::flat::check(&left.image, crate::Repair::Leaks).await;
                repaired.unwrap();
                assert_eq!(left.check().await.exit_status(), 0, "step {step}");
            });
        }
    }
}

#[test]
fn a_power_cut_leaves_what_was_or_what_is_to_be() {
    for places in [None, Some(40)] {
        cut(places, &async |disk: &Image| {
            take(disk, "new").await.unwrap();
        });
        cut(places, &async |disk: &Image| {
            disk.apply_snapshot("kept").await.unwrap();
        });
        cut(places, &async |disk: &Image| {
            disk.delete_snapshot("kept").await.unwrap();
        });
    }
}

/// Each write, zeroing or sync of a change fails once: either nothing has happened, or nothing more
/// is written.
#[test]
fn a_change_that_fails_has_not_happened() {
    let operations = [
        FaultyOperation::Write,
        FaultyOperation::Zero,
        FaultyOperation::Sync,
    ];
    for operation in operations {
        for (what, skip) in (0..3).flat_map(|what| (0..12).map(move |skip| (what, skip))) {
            simulated(1, async || {
                let (rig, disk) = full(Order::Journal, Some(60)).await;
                take(&disk, "one").await.unwrap();
                write(&disk, 9, 900).await;
                let disk = reopen(&rig, disk).await;
                let before = sectors_of(&disk).await;
                rig.image
                    .inject(Fault::new(operation, libc::EIO).after(skip));
                let changed = match what {
                    0 => take(&disk, "two").await,
                    1 => disk.apply_snapshot("one").await,
                    _ => disk.delete_snapshot("one").await,
                };
                rig.image.heal();
                if changed.is_ok() {
                    return;
                }
                // Unless nobody knows which header the image has.
                if submit(&disk, 20, 5).await.is_ok() {
                    assert_eq!(disk.snapshots().len(), 1, "{what}");
                    let disk = reopen(&rig, disk).await;
                    let mut expected = before.clone();
                    expected[20 * 8] = 5;
                    assert!(sectors_of(&disk).await == expected, "{what}");
                    take(&disk, "three").await.unwrap();
                    disk.close().await.unwrap();
                }
                let left = rig.after_cut(rig.image.power_cut());
                left.recover().await;
                assert_eq!(left.check().await.corruptions, 0, "{what}");
            });
        }
    }
}

/// A device that is full has no room for a snapshot, and none for what comes instead of what one has.
#[test]
fn a_full_device_takes_no_snapshot() {
    simulated(1, async || {
        let (rig, disk) = full(Order::Journal, Some(19)).await;
        take(&disk, "one").await.unwrap();
        take(&disk, "two").await.unwrap();
        let error = take(&disk, "three").await.unwrap_err();
        assert!(error.is_no_space(), "{error}");
        let error = submit(&disk, 0, 9).await.unwrap_err();
        assert!(error.is_no_space(), "{error}");
        assert_eq!(read(&disk, 0).await, 1);
        // Of what is discarded, the snapshots have all.
        discard(&disk, 0..64).await;
        submit(&disk, 0, 9).await.unwrap_err();
        // There is room for what is to be said of it beside what is said now.
        disk.delete_snapshot("one").await.unwrap();
        write(&disk, 0, 9).await;
        submit(&disk, 4, 9).await.unwrap_err();
        disk.delete_snapshot("two").await.unwrap();
        for block in 0..64 {
            write(&disk, block, 9).await;
        }
        disk.close().await.unwrap();
        assert_eq!(rig.check().await.exit_status(), 0);
    });
}

/// A host that is full refuses what is written behind the end that a file got for it.
#[test]
fn what_could_not_be_written_is_cut_off() {
    simulated(1, async || {
        let (rig, disk) = full(Order::Journal, None).await;
        take(&disk, "one").await.unwrap();
        let before = rig.image.size_bytes();
        for pages in 0..2 {
            rig.image
                .set_capacity_bytes(rig.image.allocated_bytes() + pages * 4096);
            for error in [
                take(&disk, "two").await.unwrap_err(),
                disk.apply_snapshot("one").await.unwrap_err(),
            ] {
                assert!(error.is_no_space(), "{error}");
                assert_eq!(rig.image.size_bytes(), before, "{pages}");
            }
        }
        rig.image.heal();
        take(&disk, "two").await.unwrap();
        disk.close().await.unwrap();
        assert_eq!(rig.check().await.exit_status(), 0);
    });
}

/// What is read of a snapshot when only its file is there.
#[test]
fn snapshots_tell_what_they_are() {
    simulated(1, async || {
        let rig = rig(Order::Journal, 16, 0, None).await;
        let disk = rig.open().await.unwrap();
        take(&disk, "one").await.unwrap();
        disk.resize(20 * BLOCK_BYTES).await.unwrap();
        take(&disk, "Zwölf").await.unwrap();
        disk.close().await.unwrap();
        let header = read_header(&rig.image).await.unwrap();
        let found = crate::flat::snapshots(&rig.image, &header).await.unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|one: &Snapshot| (one.id, one.name.as_str(), one.size_bytes))
            .collect();
        let sizes = [16, 20].map(|blocks| blocks * BLOCK_BYTES);
        assert_eq!(found, [(1, "one", sizes[0]), (2, "Zwölf", sizes[1])]);
        let mut bytes = rig.image.to_bytes();
        // The file says by a feature that it has snapshots: others must not write to it.
        assert_eq!(bytes[16], 6);
        let parts = header.snapshots.unwrap();
        bytes.truncate(usize::try_from(parts.directory.end - 1).unwrap());
        let cut_off = SimulatedStorage::from_bytes(&bytes, 1);
        let Err(error) = Flat::open(cut_off, Parts::default()).await else {
            panic!("it was opened");
        };
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    });
}
