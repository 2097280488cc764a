//! Compact images: places, on block devices that fill up and in files that grow, and their tables.

use super::behaviour::{flush, read, write};
use super::rig::{Compact, Image, Rig, simulated};
use crate::flat::format::ENTRY_BYTES;
use crate::flat::{Copying, Flat, Parts, Prefetch, check};
use crate::rng::Rng;
use crate::storage::Recording;
use crate::test_support::content::{bytes_of, stamp_of};
use crate::timer::sleep;
use crate::{
    Backend, Buffers, Content, Disk, Error, Executor, Order, Repair, Request, Storage as _,
};

pub(super) const BLOCK_BYTES: u64 = 4096;
pub(super) const BLOCK_SECTORS: u64 = 8;
/// Chunks of four blocks.
pub(super) const CHUNK_BITS: u32 = 14;

/// An image of so many blocks, in a file, or on a device with so many places. Its base has data in
/// its first blocks.
pub(super) async fn rig(order: Order, blocks: u64, base_blocks: usize, places: Option<u64>) -> Rig {
    let stamps = vec![2; base_blocks * 8];
    let mut rig = Rig::blank(1, blocks * BLOCK_SECTORS, 12, stamps, order);
    rig.compact = Some(Compact {
        chunk_bits: CHUNK_BITS,
        places,
        snapshots_max: 0,
    });
    rig.created(1, false).await
}

pub(super) async fn submit(disk: &Image, block: u64, stamp: u64) -> Result<(), Error> {
    let data = Buffers::from_vec(bytes_of(&[stamp]));
    disk.submit(Request::write(block * BLOCK_BYTES, data)).await
}

pub(super) async fn discard(disk: &Image, blocks: std::ops::Range<u64>) {
    let len = (blocks.end - blocks.start) * BLOCK_BYTES;
    let request = Request::discard(blocks.start * BLOCK_BYTES, len);
    disk.submit(request).await.unwrap();
}

/// What all of the disk has, by the stamps of its blocks' first sectors.
pub(super) async fn stamps(disk: &Image) -> Vec<u64> {
    let data = Buffers::zeroed(usize::try_from(disk.properties().size_bytes).unwrap());
    disk.submit(Request::read(0, data.clone())).await.unwrap();
    let bytes = data.to_vec();
    let blocks = bytes.chunks(4096);
    blocks
        .map(|block| stamp_of(&block[..512]).unwrap())
        .collect()
}

#[test]
fn a_full_device_takes_no_more_until_something_is_discarded() {
    for order in [Order::Journal, Order::Ordered] {
        simulated(1, async || {
            let rig = rig(order, 16, 0, Some(2)).await;
            let disk = rig.open().await.unwrap();
            write(&disk, 0, 5).await;
            write(&disk, 15, 6).await;
            let error = submit(&disk, 4, 7).await.unwrap_err();
            assert!(error.is_no_space(), "{error}");
            assert!(error.to_string().contains("no space left"), "{error}");
            // What has a place takes more.
            write(&disk, 1, 8).await;
            // A part of a chunk gives no place back, and what was refused left nothing.
            discard(&disk, 0..3).await;
            submit(&disk, 4, 7).await.unwrap_err();
            assert_eq!(read(&disk, 4 * BLOCK_SECTORS).await, 0);
            discard(&disk, 12..16).await;
            write(&disk, 4, 9).await;
            flush(&disk).await;
            assert_eq!(read(&disk, 4 * BLOCK_SECTORS).await, 9);
            assert_eq!(read(&disk, 15 * BLOCK_SECTORS).await, 0);
            disk.close().await.unwrap();
            assert_eq!(rig.check().await.exit_status(), 0);
        });
    }
}

/// What the journal has for a place is not what the place has once it is another chunk's: neither
/// recovery brings that home, nor does closing.
#[test]
fn a_place_that_is_used_again_gets_nothing_of_what_was_there() {
    simulated(1, async || {
        let rig = rig(Order::Journal, 16, 0, Some(1)).await;
        let disk = rig.open().await.unwrap();
        write(&disk, 0, 5).await;
        flush(&disk).await;
        // The newest record guards what was there: this is in the next one as a whole.
        write(&disk, 0, 6).await;
        flush(&disk).await;
        discard(&disk, 0..4).await;
        write(&disk, 4, 7).await;
        flush(&disk).await;
        let left = rig.after_cut(rig.image.power_cut());
        disk.close().await.unwrap();
        for rig in [left, rig] {
            let disk = rig.open().await.unwrap();
            assert_eq!(read(&disk, 4 * BLOCK_SECTORS).await, 7);
            assert_eq!(read(&disk, 0).await, 0);
            disk.close().await.unwrap();
        }
    });
}

/// The table comes before the bits, and both after the data.
#[test]
fn a_new_chunk_costs_one_sync_with_a_journal_and_three_without() {
    let kinds = [(Order::Journal, [1, 1]), (Order::Ordered, [3, 2])];
    for (order, expected) in kinds {
        simulated(1, async || {
            let rig = rig(order, 64, 8, None).await;
            let disk = rig.open().await.unwrap();
            write(&disk, 0, 1).await;
            flush(&disk).await;
            let syncs = [4, 5].map(async |block| {
                let before = disk.statistics().host_syncs;
                write(&disk, block, 7).await;
                flush(&disk).await;
                disk.statistics().host_syncs - before
            });
            for (syncs, expected) in syncs.into_iter().zip(expected) {
                assert_eq!(syncs.await, expected, "{order}");
            }
            let written = disk.statistics().metadata_bytes;
            write(&disk, 4, 8).await;
            flush(&disk).await;
            assert_eq!(disk.statistics().metadata_bytes, written, "in place");
        });
    }
}

#[test]
fn a_file_has_places_only_for_chunks_in_use() {
    simulated(1, async || {
        let rig = rig(Order::Journal, 4096, 0, None).await;
        let disk = rig.open().await.unwrap();
        for block in [4000, 7, 2000, 9] {
            write(&disk, block, block).await;
        }
        let first = disk.header().data_offset;
        disk.close().await.unwrap();
        let chunk_bytes = 1 << CHUNK_BITS;
        assert_eq!(rig.image.size_bytes(), first + 4 * chunk_bytes);
        let disk = rig.open().await.unwrap();
        for (block, _) in [(4000, 0), (9, 0)] {
            let start = block / 4 * 4;
            discard(&disk, start..start + 4).await;
        }
        disk.close().await.unwrap();
        // The places of 7 and 2000 are the second and the third.
        assert_eq!(rig.image.size_bytes(), first + 3 * chunk_bytes);
        let disk = rig.open().await.unwrap();
        write(&disk, 100, 3).await;
        assert_eq!(rig.image.size_bytes(), first + 3 * chunk_bytes);
        assert_eq!(read(&disk, 2000 * BLOCK_SECTORS).await, 2000);
        disk.close().await.unwrap();
        assert_eq!(rig.check().await.exit_status(), 0);
    });
}

#[test]
fn extents_tell_which_blocks_have_a_place() {
    simulated(1, async || {
        let rig = rig(Order::Journal, 64, 8, Some(16)).await;
        let disk = rig.open().await.unwrap();
        for block in [2, 20, 21, 24, 28] {
            write(&disk, block, 1).await;
        }
        discard(&disk, 28..32).await;
        let (mut found, mut at) = (Vec::new(), 0);
        while at < 64 * BLOCK_BYTES {
            let extent = disk.extent(at, 64 * BLOCK_BYTES - at).await.unwrap();
            let host = extent.host_offset.filter(|_| extent.depth == 0);
            let host = host.map(|host| host - disk.header().data_offset);
            found.push((at / BLOCK_BYTES, extent.content, extent.depth, host));
            at += extent.len;
        }
        let expected = [
            (0, Content::Data, 1, None),
            (2, Content::Data, 0, Some(2 * BLOCK_BYTES)),
            (3, Content::Data, 1, None),
            (8, Content::Zero, 0, None),
            (20, Content::Data, 0, Some(4 * BLOCK_BYTES)),
            (22, Content::Zero, 0, None),
            (24, Content::Data, 0, Some(8 * BLOCK_BYTES)),
            (25, Content::Zero, 0, None),
        ];
        assert_eq!(found, expected);
    });
}

#[test]
fn prefetch_fills_places_and_lets_go_of_the_base() {
    for places in [None, Some(3)] {
        simulated(1, async || {
            let mut rig = rig(Order::Journal, 64, 12, places).await;
            rig.copying = Copying {
                on_read: true,
                prefetch: Some(Prefetch::default()),
            };
            let disk = rig.open().await.unwrap();
            while disk.header().base.is_some() {
                sleep(std::time::Duration::from_millis(10)).await.unwrap();
            }
            rig.base
                .as_ref()
                .unwrap()
                .make_unreadable(0..12 * BLOCK_BYTES);
            let left = rig.after_cut(rig.image.power_cut());
            let disk = Flat::open(left.image, Parts::default()).await.unwrap();
            let expected: Vec<u64> = (0..64)
                .map(|block| if block < 12 { 2 } else { 0 })
                .collect();
            assert_eq!(stamps(&disk).await, expected);
        });
    }
}

/// Twice as many chunks as the table has room for, again and again.
#[test]
fn tables_move_when_a_disk_outgrows_them() {
    for places in [None, Some(40)] {
        simulated(1, async || {
            let rig = rig(Order::Journal, 16, 8, places).await;
            let disk = rig.open().await.unwrap();
            let mut expected = vec![0; 16];
            expected[..8].fill(2);
            let (mut blocks, mut moves) = (16, 0);
            for (block, stamp) in [(1, 5), (14, 6), (5000, 7), (20_000, 8), (100, 9)] {
                if block >= blocks {
                    let table = disk.header().chunks.unwrap().table;
                    blocks = block + 3;
                    disk.resize(blocks * BLOCK_BYTES).await.unwrap();
                    moves += u64::from(disk.header().chunks.unwrap().table != table);
                }
                write(&disk, block, stamp).await;
                expected.resize(usize::try_from(blocks).unwrap(), 0);
                expected[usize::try_from(block).unwrap()] = stamp;
                assert!(stamps(&disk).await == expected, "{block}");
            }
            assert_eq!(moves, 2);
            disk.close().await.unwrap();
            assert_eq!(rig.check().await.exit_status(), 0);
            let disk = rig.open().await.unwrap();
            assert!(stamps(&disk).await == expected);
            disk.close().await.unwrap();
        });
    }
}

/// Tables that have moved take places too.
#[test]
fn each_chunk_gets_a_place_wherever_the_tables_are() {
    simulated(1, async || {
        let rig = rig(Order::Unsafe, 16, 0, None).await;
        let disk = rig.open().await.unwrap();
        // One more than the table has room for, and then as many as it has after its move.
        disk.resize(1025 * 4 * BLOCK_BYTES).await.unwrap();
        let table = disk.header().chunks.unwrap().table;
        let chunks = (table.end - table.start) / ENTRY_BYTES;
        disk.resize(chunks * 4 * BLOCK_BYTES).await.unwrap();
        assert_eq!(disk.header().chunks.unwrap().table, table);
        for chunk in 0..chunks {
            submit(&disk, chunk * 4, chunk + 1).await.unwrap();
        }
        disk.close().await.unwrap();
        assert_eq!(rig.check().await.exit_status(), 0);
        let disk = rig.open().await.unwrap();
        let last = (chunks - 1) * 4 * BLOCK_SECTORS;
        assert_eq!(read(&disk, last).await, chunks);
    });
}

/// What lies behind the end of a disk, in its last block and in its tables, was the disk's once.
#[test]
fn a_compact_disk_that_shrinks_and_grows_has_zeros_at_its_end() {
    simulated(1, async || {
        let rig = rig(Order::Journal, 64, 0, Some(16)).await;
        let disk = rig.open().await.unwrap();
        for block in 0..64 {
            let stamps = [block + 1; 8];
            let data = Buffers::from_vec(bytes_of(&stamps));
            let request = Request::write(block * BLOCK_BYTES, data);
            disk.submit(request).await.unwrap();
        }
        disk.resize(10 * BLOCK_BYTES + 512).await.unwrap();
        disk.resize(64 * BLOCK_BYTES).await.unwrap();
        let sector = |block: u64| block * BLOCK_SECTORS;
        assert_eq!(read(&disk, sector(10)).await, 11);
        for sector in [sector(10) + 1, sector(11), sector(12), sector(63)] {
            assert_eq!(read(&disk, sector).await, 0, "{sector}");
        }
        // Its places are free again.
        for block in 11..64 {
            write(&disk, block, 1).await;
        }
        disk.close().await.unwrap();
        assert_eq!(rig.check().await.exit_status(), 0);
    });
}

/// Moving tables is one write of the header.
#[test]
fn a_power_cut_while_tables_move_leaves_the_old_size_or_the_new() {
    for places in [None, Some(16)] {
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
        let (rig, mut recording) = executor.run(async {
            let rig = rig(Order::Journal, 16, 8, places).await;
            let disk = rig.open().await.unwrap();
            write(&disk, 1, 5).await;
            write(&disk, 14, 6).await;
            disk.close().await.unwrap();
            let disk = rig.open().await.unwrap();
            let recording = Recording::start(&[&rig.image]);
            disk.resize(20_000 * BLOCK_BYTES).await.unwrap();
            disk.close().await.unwrap();
            (rig, recording)
        });
        let mut rng = Rng::new(1);
        for step in 0..=recording.steps() {
            let left = recording.power_cut(step, rng.next()).remove(0);
            let left = rig.after_cut(left);
            executor.run(async {
                assert_eq!(left.check().await.corruptions, 0);
                let disk = left.open().await.unwrap();
                let stamps = stamps(&disk).await;
                assert!([16, 20_000].contains(&stamps.len()), "step {step}");
                let expected = [2, 5, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 6, 0];
                assert_eq!(stamps[..16], expected, "step {step}");
                assert!(stamps[16..].iter().all(|stamp| *stamp == 0), "step {step}");
            });
        }
    }
}

/// Writes an entry of the table of a closed image.
async fn set_entry(rig: &Rig, chunk: u64, entry: u32) {
    let table = crate::flat::read_header(&rig.image).await.unwrap().chunks;
    let at = table.unwrap().table.start + chunk * ENTRY_BYTES;
    let bytes = Buffers::from_vec(entry.to_le_bytes());
    rig.image.write_at(at, bytes).await.unwrap();
}

#[test]
fn tables_that_cannot_be_are_refused_and_repaired() {
    for places in [None, Some(8)] {
        for (entry, problem, stamp) in [
            (1, "chunk 2 is in place 1, which is another's", 5),
            (1000, "chunk 2 is in place 1000, which there is not", 0),
            (u32::MAX, "which there is not", 0),
        ] {
            simulated(1, async || {
                let rig = rig(Order::Journal, 32, 0, places).await;
                let disk = rig.open().await.unwrap();
                for (block, stamp) in [(0, 5), (8, 6), (16, 7)] {
                    write(&disk, block, stamp).await;
                }
                disk.close().await.unwrap();
                set_entry(&rig, 2, entry).await;
                let Err(error) = rig.open().await else {
                    panic!("it was opened");
                };
                assert!(matches!(error, Error::Damaged { .. }));
                assert!(error.to_string().contains(problem), "{error}");
                let report = rig.check().await;
                assert_eq!((report.exit_status(), report.corruptions), (2, 1));
                let report = check(&rig.image, Repair::Leaks).await.unwrap();
                assert_eq!((report.corruptions, report.leaks_fixed), (1, 0));
                let report = check(&rig.image, Repair::All).await.unwrap();
                assert_eq!((report.corruptions, report.corruptions_fixed), (0, 1));
                assert_eq!(rig.check().await.exit_status(), 0);
                let disk = rig.open().await.unwrap();
                assert_eq!(read(&disk, 8 * BLOCK_SECTORS).await, stamp);
                write(&disk, 8, 9).await;
                assert_eq!(read(&disk, 0).await, 5);
                assert_eq!(read(&disk, 16 * BLOCK_SECTORS).await, 7);
                disk.close().await.unwrap();
            });
        }
    }
}

/// What a crash leaves between the table and the bits.
#[test]
fn a_place_of_which_nobody_reads_anything_is_a_leak() {
    simulated(1, async || {
        let rig = rig(Order::Ordered, 32, 8, Some(2)).await;
        set_entry(&rig, 0, 2).await;
        let report = rig.check().await;
        assert_eq!((report.exit_status(), report.leaks), (3, 1));
        let disk = rig.open().await.unwrap();
        assert_eq!((read(&disk, 0).await, read(&disk, 8).await), (2, 2));
        disk.close().await.unwrap();
        let report = check(&rig.image, Repair::Leaks).await.unwrap();
        assert_eq!((report.leaks, report.leaks_fixed), (0, 1));
        let disk = rig.open().await.unwrap();
        for block in [0, 31] {
            write(&disk, block, 1).await;
        }
        assert_eq!((read(&disk, 0).await, read(&disk, 8).await), (1, 2));
        disk.close().await.unwrap();
        assert_eq!(rig.check().await.exit_status(), 0);
    });
}

/// Nothing of what a device held before is seen, nor is it written over that a chunk has no place
/// for: an image of a large disk is made and opened at once.
#[test]
fn a_device_too_small_for_any_place_is_refused() {
    simulated(1, async || {
        let options = crate::flat::CreateOptions {
            block_bits: 12,
            chunk_bits: Some(CHUNK_BITS),
            ..crate::flat::CreateOptions::new(1 << 20)
        };
        let needed = options.header().unwrap().data_offset + (1 << CHUNK_BITS);
        for (bytes, is_enough) in [(needed - 512, false), (needed, true)] {
            let device = crate::SimulatedStorage::new(bytes, 1).block_device();
            let created = crate::flat::create(&device, &options, None).await;
            assert_eq!(created.is_ok(), is_enough, "{bytes}");
        }
        let whole = crate::flat::CreateOptions {
            chunk_bits: None,
            ..options
        };
        let device = crate::SimulatedStorage::new(needed, 1).block_device();
        let error = crate::flat::create(&device, &whole, None)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("compact=on"), "{error}");
    });
}
