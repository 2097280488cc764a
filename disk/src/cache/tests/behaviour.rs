//! What the disk below is asked for, and what is told of the cache.

use super::rig::{Rig, flush, read, sectors_of, simulated, write};
use crate::cache::{CacheOptions, CachedRange, WriteMode};
use crate::{Buffers, Class, Content, Disk, Request};

const SECTORS: u64 = 512;

fn rig(mode: WriteMode, in_file: bool) -> Rig {
    let options = CacheOptions::of_slots(64).write_mode(mode);
    Rig::new(1, SECTORS, options, in_file)
}

#[test]
fn what_was_read_is_not_read_again() {
    for in_file in [false, true] {
        simulated(1, async || {
            let rig = rig(WriteMode::Through, in_file);
            let disk = rig.open().await.unwrap();
            let data = Buffers::zeroed(16 << 10);
            for offset in [0, 8192, 0] {
                let request = Request::read(offset, data.clone()).of_class(Class::Metadata);
                disk.submit(request).await.unwrap();
                crate::timer::sleep(std::time::Duration::from_millis(10))
                    .await
                    .unwrap();
            }
            // The second is there in half.
            assert_eq!(rig.disk.counters().read_bytes, 24 << 10);
            let statistics = disk.statistics();
            let counts = statistics.cache.classes[Class::Metadata as usize];
            assert_eq!((counts.hits, counts.misses, counts.fills), (6, 6, 6));
            assert_eq!(statistics.cache.total(), counts);
            let regions: Vec<_> = statistics
                .cache
                .regions
                .0
                .iter()
                .map(|r| (r.reads, r.hits))
                .collect();
            assert_eq!(
                regions[..7],
                [(2, 1), (2, 1), (3, 2), (3, 2), (1, 0), (1, 0), (0, 0)]
            );
            disk.close().await.unwrap();
        });
    }
}

#[test]
fn long_reads_of_no_class_do_not_come_in() {
    simulated(1, async || {
        let rig = rig(WriteMode::Through, false);
        let disk = rig.open().await.unwrap();
        assert_eq!(sectors_of(&disk).await, rig.initial());
        assert_eq!(disk.statistics().cache.total().fills, 0);
    });
}

#[test]
fn writes_go_home_at_once_or_with_the_flush() {
    for (mode, in_file, written) in [
        (WriteMode::Through, false, [4, 4]),
        (WriteMode::Through, true, [4, 4]),
        (WriteMode::Back, false, [0, 1]),
        (WriteMode::Back, true, [0, 0]),
    ] {
        simulated(1, async || {
            let rig = rig(mode, in_file);
            let disk = rig.open().await.unwrap();
            // Neighbours become one write.
            for sector in [24, 8, 16, 0] {
                write(&disk, sector, &[2; 8]).await;
            }
            assert_eq!(rig.disk.counters().writes, written[0], "{mode:?}");
            flush(&disk).await;
            assert_eq!(rig.disk.counters().writes, written[1], "{mode:?}");
            let read_bytes = rig.disk.counters().read_bytes;
            assert_eq!(read(&disk, 9).await.unwrap(), 2);
            assert_eq!(rig.disk.counters().read_bytes, read_bytes);
            // The disk is idle.
            crate::timer::sleep(std::time::Duration::from_secs(5))
                .await
                .unwrap();
            assert_eq!(rig.on_disk().await[..32], [2; 32]);
            disk.close().await.unwrap();
        });
    }
}

/// One sync of the fast file, and none of the slow disk.
#[test]
fn a_flush_syncs_the_cache_file_once() {
    simulated(1, async || {
        let rig = rig(WriteMode::Back, true);
        let disk = rig.open().await.unwrap();
        flush(&disk).await;
        let file = rig.file.clone().unwrap();
        for n in 0..5 {
            let before = (file.counters().syncs, rig.disk.counters().syncs);
            write(&disk, n * 8, &[2; 8]).await;
            write(&disk, 100 + n * 8, &[2; 4]).await;
            flush(&disk).await;
            let after = (file.counters().syncs, rig.disk.counters().syncs);
            assert_eq!(after, (before.0 + 1, before.1));
        }
    });
}

#[test]
fn dirty_blocks_are_data_whatever_the_disk_has() {
    simulated(1, async || {
        let options = CacheOptions::of_slots(32).write_mode(WriteMode::Back);
        let mut rig = Rig::new(1, SECTORS, options, false);
        rig.disk = crate::SimulatedStorage::new(SECTORS * 512, 1).named("disk");
        let disk = rig.open().await.unwrap();
        write(&disk, 16, &[2; 4]).await;
        write(&disk, 24, &[2; 4]).await;
        let mut found = Vec::new();
        let mut at = 0;
        while at < SECTORS * 512 {
            let extent = disk.extent(at, SECTORS * 512 - at).await.unwrap();
            found.push((extent.len / 4096, extent.content));
            at += extent.len;
        }
        assert_eq!(
            found,
            [(2, Content::Zero), (2, Content::Data), (60, Content::Zero)]
        );
    });
}

#[test]
fn what_is_cached_is_listed_and_cleared() {
    for in_file in [false, true] {
        simulated(1, async || {
            let rig = rig(WriteMode::Back, in_file);
            let disk = rig.open().await.unwrap();
            let class = Class::Below1Mib;
            let data = Buffers::zeroed(8192);
            let request = Request::read(8192, data.clone()).of_class(class);
            disk.submit(request).await.unwrap();
            write(&disk, 40, &[2; 8]).await;
            crate::timer::sleep(std::time::Duration::from_millis(10))
                .await
                .unwrap();
            let range = |offset, len, class, is_dirty| CachedRange {
                offset,
                len,
                class,
                is_dirty,
            };
            let clean = range(8192, 8192, class, false);
            let dirty = range(20480, 4096, Class::Other, true);
            assert_eq!(disk.list(0, 9), [clean, dirty]);
            assert_eq!(disk.list(0, 1), [clean]);
            assert_eq!(disk.list(16384, 9), [dirty]);
            disk.clear().await.unwrap();
            assert_eq!(disk.list(0, 9), []);
            assert_eq!(rig.on_disk().await[40], 2);
            disk.shared.blocks.borrow().check();
            disk.close().await.unwrap();
        });
    }
}

/// As for an overlay that takes the place of a disk: the cache stays warm.
#[test]
fn another_disk_may_take_the_place_of_the_one_below() {
    for in_file in [false, true] {
        simulated(1, async || {
            let rig = rig(WriteMode::Back, in_file);
            let disk = rig.open().await.unwrap();
            write(&disk, 8, &[2; 8]).await;
            let changed = disk.while_home("/another/disk".into(), async || {
                assert_eq!(rig.on_disk().await[8], 2);
                Ok::<_, crate::Error>(())
            });
            changed.await.unwrap();
            let read_bytes = rig.disk.counters().read_bytes;
            assert_eq!(read(&disk, 8).await.unwrap(), 2);
            assert_eq!(rig.disk.counters().read_bytes, read_bytes);
            disk.close().await.unwrap();
        });
    }
}

#[test]
fn requests_that_no_disk_can_do_are_refused() {
    simulated(1, async || {
        let rig = rig(WriteMode::Back, false);
        let disk = rig.open().await.unwrap();
        for request in [
            Request::read(SECTORS * 512, Buffers::zeroed(512)),
            Request::write(1, Buffers::zeroed(512)),
            Request::discard(0, u64::MAX),
            Request::write_zeroes(512, 513, true),
        ] {
            assert!(disk.submit(request).await.is_err());
        }
        disk.submit(Request::discard(0, 0)).await.unwrap();
        assert_eq!(disk.statistics().errors, 4);
    });
}
