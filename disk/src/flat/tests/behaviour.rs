//! What an image does that programs do not show: syncs, metadata, what it stands on.

use std::rc::Rc;
use std::time::Duration;

use super::rig::{Image, Rig, simulated};
use crate::flat::format::BaseName;
use crate::flat::{Base, Copying, CreateOptions, Flat, Parts, Prefetch, create};
use crate::latch::Latch;
use crate::test_support::content::{bytes_of, stamp_of};
use crate::timer::sleep;
use crate::{
    BoxFuture, Buffers, Content, Disk, Error, Extent, Fault, FaultyOperation, Order, Properties,
    Raw, Request, SimulatedStorage, Statistics, Trace,
};

const BLOCK_SECTORS: u64 = 8;

/// An image of 16 blocks of 4 KiB on a base that has data in the first 8 of 12 blocks.
pub(super) async fn rig(order: Order, scans: bool) -> Rig {
    let mut stamps = vec![2; 64];
    stamps.resize(96, 0);
    Rig::create(1, 128, 12, stamps, order, scans).await
}

pub(super) async fn write(disk: &Image, block: u64, stamp: u64) {
    let data = Buffers::from_vec(bytes_of(&[stamp]));
    let request = Request::write(block * BLOCK_SECTORS * 512, data);
    disk.submit(request).await.unwrap();
}

pub(super) async fn flush(disk: &Image) {
    disk.submit(Request::flush()).await.unwrap();
}

pub(super) async fn read(disk: &dyn Disk, sector: u64) -> u64 {
    let data = Buffers::zeroed(512);
    let request = Request::read(sector * 512, data.clone());
    disk.submit(request).await.unwrap();
    stamp_of(&data.to_vec()).unwrap()
}

/// The host syncs of a write to a block and a flush.
async fn syncs(disk: &Image, block: u64) -> u64 {
    let before = disk.statistics().host_syncs;
    write(disk, block, 7).await;
    flush(disk).await;
    disk.statistics().host_syncs - before
}

#[test]
fn a_flush_of_a_new_block_costs_one_sync_with_a_journal_and_two_without() {
    for (order, expected) in [
        (Order::Journal, 1),
        (Order::Ordered, 2),
        (Order::Barrier, 1),
    ] {
        simulated(1, async || {
            let rig = rig(order, false).await;
            let disk = rig.open().await.unwrap();
            write(&disk, 0, 1).await;
            flush(&disk).await;
            assert_eq!(syncs(&disk, 1).await, expected, "{order}");
            assert_eq!(syncs(&disk, 1).await, 1, "{order}: what is local");
            disk.close().await.unwrap();
        });
    }
}

#[test]
fn unsafe_order_syncs_nothing() {
    simulated(1, async || {
        let rig = rig(Order::Unsafe, false).await;
        let disk = rig.open().await.unwrap();
        assert_eq!(syncs(&disk, 0).await, 0);
        assert_eq!(read(&disk, 0).await, 7);
        assert_eq!(read(&disk, 1).await, 2);
    });
}

/// Neither what lies behind the base's end nor what is zeros there needs a bit.
#[test]
fn no_metadata_is_written_for_what_the_base_does_not_have() {
    simulated(1, async || {
        for (scans, block, metadata_bytes) in [(false, 13, 0), (true, 9, 0), (false, 9, 512)] {
            let rig = rig(Order::Ordered, scans).await;
            let disk = rig.open().await.unwrap();
            write(&disk, block, 1).await;
            flush(&disk).await;
            let written = disk.statistics().metadata_bytes;
            assert_eq!(written, metadata_bytes, "block {block}, scans: {scans}");
        }
    });
}

/// There is no journal either, and a flush costs what it costs with a raw image.
#[test]
fn what_stands_alone_has_no_metadata() {
    simulated(1, async || {
        let rig = Rig::create(1, 128, 12, Vec::new(), Order::Journal, false).await;
        let disk = rig.open().await.unwrap();
        for block in 0..16 {
            assert_eq!(syncs(&disk, block).await, 1);
        }
        let statistics = disk.statistics();
        assert_eq!(statistics.metadata_bytes, 0);
        assert_eq!(statistics.journal.written_bytes, 0);
        assert_eq!(disk.header().journal_identity, None);
    });
}

#[test]
fn an_image_whose_blocks_are_all_local_stands_alone() {
    simulated(1, async || {
        let rig = rig(Order::Journal, false).await;
        let disk = rig.open().await.unwrap();
        for block in 0..12 {
            write(&disk, block, 1).await;
        }
        disk.close().await.unwrap();
        let disk = Flat::open(rig.image.clone(), Parts::default())
            .await
            .unwrap();
        assert_eq!(disk.header().base, None);
        assert_eq!((read(&disk, 0).await, read(&disk, 1).await), (1, 2));
        let base = rig.base_reference();
        let error = disk.set_base(base).await.unwrap_err();
        assert!(error.to_string().contains("stands alone"), "{error}");
    });
}

#[test]
fn a_base_of_another_size_is_refused() {
    simulated(1, async || {
        let rig = rig(Order::Journal, false).await;
        let base = Raw::new(SimulatedStorage::new(4096, 1)).unwrap();
        let parts = Parts {
            base: Some(Rc::new(base)),
            ..Parts::default()
        };
        let Err(error) = Flat::open(rig.image.clone(), parts).await else {
            panic!("it was opened");
        };
        let message = error.to_string();
        assert!(message.contains("'base' has changed: it has 4096 bytes, and had 49152"));
    });
}

/// A base that was hidden by a smaller size stays hidden.
#[test]
fn a_disk_that_shrinks_and_grows_has_zeros_at_its_end() {
    simulated(1, async || {
        let rig = rig(Order::Journal, false).await;
        let disk = rig.open().await.unwrap();
        disk.resize(5 * 512).await.unwrap();
        disk.resize(128 * 512).await.unwrap();
        assert_eq!(read(&disk, 4).await, 2);
        assert_eq!(read(&disk, 5).await, 0);
        assert_eq!(read(&disk, 60).await, 0);
        disk.close().await.unwrap();
    });
}

#[test]
fn extents_tell_what_is_where() {
    simulated(1, async || {
        let rig = rig(Order::Journal, false).await;
        let disk = rig.open().await.unwrap();
        write(&disk, 2, 1).await;
        let mut found = Vec::new();
        let mut at = 0;
        while at < 128 * 512 {
            let extent = disk.extent(at, 128 * 512 - at).await.unwrap();
            found.push((at / 512, extent.content, extent.depth));
            at += extent.len;
        }
        found.dedup_by_key(|(_, content, depth)| (*content, *depth));
        let expected = [
            (0, Content::Data, 1),
            (16, Content::Data, 0),
            (24, Content::Data, 1),
            (64, Content::Zero, 1),
            (96, Content::Zero, 0),
        ];
        assert_eq!(found, expected);
        disk.close().await.unwrap();
    });
}

#[test]
fn an_image_that_was_not_closed_is_recovered_by_writers_and_refused_to_readers() {
    simulated(1, async || {
        let rig = rig(Order::Journal, false).await;
        let disk = rig.open().await.unwrap();
        write(&disk, 0, 1).await;
        flush(&disk).await;
        let left = rig.image.power_cut();
        let Err(error) = Flat::open(left.clone().read_only(), Parts::default()).await else {
            panic!("it was opened");
        };
        assert!(error.to_string().contains("was not closed"), "{error}");
        let disk = rig.after_cut(left).open().await.unwrap();
        assert_eq!(read(&disk, 0).await, 1);
        assert_eq!(disk.statistics().journal.recovered_transactions, 1);
    });
}

#[test]
fn sizes_and_names_that_cannot_be_are_refused() {
    simulated(1, async || {
        let base = |name: String| Base {
            name: BaseName {
                name,
                format: "raw".to_owned(),
                version: None,
            },
            size_bytes: 512,
        };
        let refused = [
            (0, 16, None, "512 bytes to 4 EiB"),
            (u64::MAX, 16, None, "512 bytes to 4 EiB"),
            (1 << 50, 12, None, "larger blocks"),
            (4096, 11, None, "4 KiB to 1 MiB"),
            (4096, 21, None, "4 KiB to 1 MiB"),
            (4096, 16, Some(base("x".repeat(4096))), "too long"),
            (4096, 16, Some(base(String::new())), "too long"),
        ];
        for (size_bytes, block_bits, base, problem) in refused {
            let mut options = CreateOptions::new(size_bytes);
            (options.block_bits, options.base) = (block_bits, base);
            let storage = SimulatedStorage::new(0, 1);
            let error = create(&storage, &options, None).await.unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }));
            assert!(error.to_string().contains(problem), "{error}");
        }
    });
}

/// How often the base was read.
fn base_reads(rig: &Rig) -> u64 {
    rig.base.as_ref().unwrap().counters().reads
}

#[test]
fn what_is_read_from_the_base_is_read_once_and_noted_at_close() {
    simulated(1, async || {
        let mut rig = rig(Order::Journal, false).await;
        rig.copying.on_read = true;
        let disk = rig.open().await.unwrap();
        for sector in [0, 1, 9, 0, 9] {
            assert_eq!(read(&disk, sector).await, 2);
        }
        let statistics = disk.statistics();
        assert_eq!(base_reads(&rig), 2);
        assert_eq!(statistics.copies.on_read_bytes, 2 * 4096);
        assert_eq!((statistics.host_syncs, statistics.metadata_bytes), (0, 0));
        assert_eq!(disk.missing_blocks(), 10);
        let left = rig.after_cut(rig.image.power_cut());
        assert_eq!(left.open().await.unwrap().missing_blocks(), 12);
        disk.close().await.unwrap();
        assert_eq!(rig.open().await.unwrap().missing_blocks(), 10);
    });
}

/// Otherwise the block would come from the base again.
#[test]
fn what_is_written_to_a_copied_block_is_kept_by_the_next_flush() {
    for order in [Order::Journal, Order::Ordered] {
        simulated(1, async || {
            let mut rig = rig(order, false).await;
            rig.copying.on_read = true;
            let disk = rig.open().await.unwrap();
            read(&disk, 0).await;
            write(&disk, 0, 7).await;
            flush(&disk).await;
            let left = rig.after_cut(rig.image.power_cut());
            let disk = left.open().await.unwrap();
            assert_eq!((read(&disk, 0).await, read(&disk, 1).await), (7, 2));
        });
    }
}

#[test]
fn prefetch_copies_the_base_once_and_lets_go_of_it() {
    simulated(1, async || {
        let mut rig = rig(Order::Journal, false).await;
        rig.copying = Copying {
            on_read: true,
            prefetch: Some(Prefetch::default()),
        };
        let disk = rig.open().await.unwrap();
        while disk.header().base.is_some() {
            sleep(Duration::from_millis(10)).await.unwrap();
        }
        let copies = disk.statistics().copies;
        assert_eq!(copies.on_read_bytes + copies.prefetched_bytes, 12 * 4096);
        rig.base.as_ref().unwrap().make_unreadable(0..96 * 512);
        assert_eq!((read(&disk, 0).await, read(&disk, 63).await), (2, 2));
        let left = rig.after_cut(rig.image.power_cut());
        let disk = Flat::open(left.image, Parts::default()).await.unwrap();
        assert_eq!((read(&disk, 0).await, read(&disk, 63).await), (2, 2));
    });
}

#[test]
fn prefetch_keeps_to_its_rate() {
    simulated(1, async || {
        let mut rig = rig(Order::Journal, false).await;
        rig.copying.prefetch = Some(Prefetch {
            bytes_per_s: Some(4096),
            trace: None,
        });
        let disk = rig.open().await.unwrap();
        sleep(Duration::from_secs(5)).await.unwrap();
        assert!(disk.statistics().copies.prefetched_bytes <= 96 * 512);
        assert!(disk.header().base.is_some());
        sleep(Duration::from_secs(30)).await.unwrap();
        assert_eq!(disk.header().base, None);
    });
}

/// Which of the 16 blocks are here.
async fn local_blocks(disk: &Image) -> Vec<u64> {
    let mut local = Vec::new();
    for block in 0..16 {
        let offset = block * BLOCK_SECTORS * 512;
        let extent = disk.extent(offset, 512).await.unwrap();
        if extent.depth == 0 && extent.content == Content::Data {
            local.push(block);
        }
    }
    local
}

#[test]
fn prefetch_begins_with_what_a_trace_names() {
    simulated(1, async || {
        let mut rig = rig(Order::Journal, false).await;
        let mut trace = Trace::default();
        // A sector of a block, what is behind the end of the disk, and two blocks.
        for range in [
            6 * 4096..6 * 4096 + 512,
            1 << 40..1 << 41,
            2 * 4096..4 * 4096,
        ] {
            trace.push(range);
        }
        rig.copying.prefetch = Some(Prefetch {
            bytes_per_s: Some(4096),
            trace: Some(trace.into()),
        });
        let disk = rig.open().await.unwrap();
        sleep(Duration::from_millis(500)).await.unwrap();
        assert_eq!(local_blocks(&disk).await, [2, 3, 6]);
        sleep(Duration::from_mins(1)).await.unwrap();
        assert_eq!(disk.header().base, None);
    });
}

/// A base that is out of reach for a while.
#[test]
fn prefetch_goes_on_after_errors() {
    simulated(1, async || {
        let mut rig = rig(Order::Journal, false).await;
        rig.copying.prefetch = Some(Prefetch::default());
        let base = rig.base.as_ref().unwrap();
        base.inject(Fault::new(FaultyOperation::Read, libc::EIO).times(5));
        let disk = rig.open().await.unwrap();
        sleep(Duration::from_millis(900)).await.unwrap();
        assert!(disk.missing_blocks() > 0);
        sleep(Duration::from_mins(1)).await.unwrap();
        assert_eq!(disk.header().base, None);
    });
}

/// A base whose server does not answer, until whoever uses it has given up.
#[derive(Default)]
struct Away {
    given_up: Latch,
}

impl Disk for Away {
    fn properties(&self) -> Properties {
        Raw::new(SimulatedStorage::new(96 * 512, 1))
            .unwrap()
            .properties()
    }

    fn submit(&self, _: Request) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            self.given_up.wait().await;
            Err(Error::Unsupported {
                path: "away".into(),
                problem: "is away".into(),
            })
        })
    }

    fn extent(&self, _: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        let (content, depth, host_offset) = (Content::Data, 0, None);
        let extent = Extent {
            len,
            content,
            depth,
            host_offset,
        };
        Box::pin(async move { Ok(extent) })
    }

    fn give_up(&self) {
        self.given_up.set();
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}

#[test]
fn nobody_waits_at_the_end_for_a_base_that_is_away() {
    simulated(1, async || {
        let rig = rig(Order::Journal, false).await;
        let parts = Parts {
            base: Some(Rc::new(Away::default())),
            copying: Copying {
                on_read: true,
                prefetch: Some(Prefetch::default()),
            },
            ..Parts::default()
        };
        let disk = Flat::open(rig.image.clone(), parts).await.unwrap();
        sleep(Duration::from_millis(10)).await.unwrap();
        disk.close().await.unwrap();
        assert_eq!(disk.missing_blocks(), 12);
    });
}

/// A host without room, for example.
#[test]
fn what_cannot_be_kept_is_read_all_the_same() {
    simulated(1, async || {
        let mut rig = rig(Order::Journal, false).await;
        rig.copying.on_read = true;
        let disk = rig.open().await.unwrap();
        rig.image
            .inject(Fault::new(FaultyOperation::Write, libc::ENOSPC).times(u64::MAX));
        for sector in [0, 9, 0] {
            assert_eq!(read(&disk, sector).await, 2);
        }
        assert_eq!(disk.missing_blocks(), 12);
    });
}

/// After a failed sync nothing is written any more, but all can be read.
#[test]
fn nothing_is_kept_after_a_failed_sync() {
    simulated(1, async || {
        let mut rig = rig(Order::Journal, false).await;
        rig.copying.on_read = true;
        let disk = rig.open().await.unwrap();
        rig.image
            .inject(Fault::new(FaultyOperation::Sync, libc::EIO));
        disk.submit(Request::flush()).await.unwrap_err();
        let writes = rig.image.counters().writes;
        assert_eq!((read(&disk, 0).await, read(&disk, 9).await), (2, 2));
        assert_eq!(rig.image.counters().writes, writes);
        assert_eq!(disk.missing_blocks(), 12);
    });
}

/// Nothing new waits then, but the transaction that failed does.
#[test]
fn a_commit_that_failed_is_made_up_for_at_close() {
    simulated(1, async || {
        for order in [Order::Journal, Order::Ordered] {
            let rig = rig(order, false).await;
            let disk = rig.open().await.unwrap();
            write(&disk, 0, 7).await;
            rig.image
                .inject(Fault::new(FaultyOperation::Write, libc::EIO));
            disk.submit(Request::flush()).await.unwrap_err();
            disk.close().await.unwrap();
            let disk = rig.open().await.unwrap();
            assert_eq!((read(&disk, 0).await, disk.missing_blocks()), (7, 11));
        }
    });
}
