//! What only shows inside the engine; the whole is tested against models in `qcow2::tests`.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::Repair;
use crate::executor::yield_now;
use crate::qcow2::format::{AutoclearFeatures, BitmapsExtension, SnapshotEntry};
use crate::qcow2::{CreateOptions, NewSnapshot, check, create, file, inspect, recover};
use crate::test_support::seeded;
use crate::timer::sleep;
use crate::{
    Backend, Executor, Fault, FaultyOperation, Format, GrowthStatistics, OpenOptions, Order,
    Recording, SimulatedStorage,
};

const SEED: u64 = 1;

/// Runs `test` on a new image without snapshots or a backing file.
fn with_image<F: Future<Output = ()>>(
    options: &CreateOptions,
    test: impl FnOnce(Qcow2<SimulatedStorage>, SimulatedStorage) -> F,
) {
    with_image_in(Order::Journal, options, test);
}

/// As [`with_image`], with another seed.
fn with_image_at<F: Future<Output = ()>>(
    seed: u64,
    test: impl FnOnce(Qcow2<SimulatedStorage>, SimulatedStorage) -> F,
) {
    with_image_of(seed, Order::Journal, &CreateOptions::new(1 << 30), test);
}

/// As [`with_image`], with this order.
fn with_image_in<F: Future<Output = ()>>(
    order: Order,
    options: &CreateOptions,
    test: impl FnOnce(Qcow2<SimulatedStorage>, SimulatedStorage) -> F,
) {
    with_image_of(SEED, order, options, test);
}

fn with_image_of<F: Future<Output = ()>>(
    seed: u64,
    order: Order,
    options: &CreateOptions,
    test: impl FnOnce(Qcow2<SimulatedStorage>, SimulatedStorage) -> F,
) {
    let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
    executor.run(async {
        let storage = SimulatedStorage::new(0, seed);
        create(&storage, options).await.unwrap();
        let parts = Parts {
            order: Some(order),
            ..Parts::default()
        };
        let disk = Qcow2::open(storage.clone(), parts).await.unwrap();
        test(disk, storage).await;
    });
}

async fn write(disk: &dyn Disk, offset: u64, byte: u8, len: usize) {
    let request = Request::write(offset, Buffers::from_vec(vec![byte; len]));
    disk.submit(request).await.unwrap();
}

async fn read(disk: &dyn Disk, offset: u64, len: usize) -> Vec<u8> {
    let buffers = Buffers::zeroed(len);
    disk.submit(Request::read(offset, buffers.clone()))
        .await
        .unwrap();
    buffers.to_vec()
}

async fn flush(disk: &dyn Disk) {
    disk.submit(Request::flush()).await.unwrap();
}

/// What a flush costs after an allocating write: host syncs, writes, bytes of metadata, and bytes of
/// the journal.
fn cost_of_an_allocating_flush(order: Order, len: usize) -> [u64; 4] {
    let cost = Rc::new(Cell::default());
    let found = Rc::clone(&cost);
    let options = CreateOptions::new(1 << 30);
    with_image_in(order, &options, |disk, storage| async move {
        for n in 0..3 {
            write(&disk, n << 20, 1, len).await;
            flush(&disk).await;
        }
        let (before, earlier) = (storage.counters(), disk.statistics());
        write(&disk, 100 << 16, 1, len).await;
        flush(&disk).await;
        let (after, now) = (storage.counters(), disk.statistics());
        let syncs = after.syncs - before.syncs;
        assert_eq!(now.host_syncs - earlier.host_syncs, syncs);
        found.set([
            syncs,
            after.writes - before.writes,
            now.metadata_bytes - earlier.metadata_bytes,
            now.journal.written_bytes - earlier.journal.written_bytes,
        ]);
    });
    cost.get()
}

/// One record, with the data if that is little and else beside it, and one sync.
#[test]
fn a_flush_after_an_allocating_write_costs_one_sync_and_one_record() {
    let cost = |len| cost_of_an_allocating_flush(Order::Journal, len);
    assert_eq!(cost(4096), [1, 1, 0, 8192]);
    assert_eq!(cost(65536), [1, 2, 0, 4096]);
}

/// What is in records comes home by a checkpoint, and until then is read from memory.
#[test]
fn a_little_new_data_goes_home_by_way_of_the_journal() {
    with_image(&CreateOptions::new(1 << 30), |disk, storage| async move {
        let len = 1000;
        let byte = |n: u64| n.to_le_bytes()[0];
        for n in 0..len {
            write(&disk, n << 20, byte(n), 4096).await;
            flush(&disk).await;
            write(&disk, (n << 20) + 4096, !byte(n), 4096).await;
        }
        for n in 0..len {
            assert_eq!(read(&disk, n << 20, 4096).await, [byte(n); 4096]);
            let next = read(&disk, (n << 20) + 4096, 4096).await;
            assert_eq!(next, [!byte(n); 4096]);
        }
        let done = disk.statistics();
        assert!(done.journal.checkpoints > 2, "{done:?}");
        assert_eq!(done.journal.checkpoints_forced, 0);
        assert_eq!(done.growth, GrowthStatistics::default());
        let all = 2 * len * 4096;
        assert!(done.journal.checkpoint_bytes > all / 2, "{done:?}");
        assert!(done.metadata_bytes < all / 8, "{done:?}");
        disk.close().await.unwrap();
        let report = check(&storage, Repair::None).await.unwrap();
        assert_eq!(report.exit_status(), 0, "{report:#?}");
    });
}

/// Refcounts need no sync of their own: they go with the data, before the one that precedes the
/// mapping.
#[test]
fn without_a_journal_it_costs_two_syncs_and_two_sectors() {
    assert_eq!(
        cost_of_an_allocating_flush(Order::Ordered, 4096),
        [2, 3, 1024, 0]
    );
    assert_eq!(
        cost_of_an_allocating_flush(Order::Unsafe, 4096),
        [0, 3, 1024, 0]
    );
}

#[test]
fn a_flush_after_a_write_in_place_costs_one_sync() {
    with_image(&CreateOptions::new(1 << 30), |disk, storage| async move {
        write(&disk, 0, 1, 65536).await;
        flush(&disk).await;
        let before = storage.counters();
        write(&disk, 4096, 2, 4096).await;
        flush(&disk).await;
        assert_eq!(storage.counters().syncs - before.syncs, 1);
        assert_eq!(storage.counters().writes - before.writes, 1);
        assert_eq!(read(&disk, 0, 4096).await, [1; 4096]);
        assert_eq!(read(&disk, 4096, 4096).await, [2; 4096]);
    });
}

/// A crash would find nothing to recover, and no space that nobody uses.
#[test]
fn an_idle_image_comes_to_rest() {
    with_image(&CreateOptions::new(1 << 30), |disk, storage| async move {
        for n in 0..20 {
            write(&disk, n << 20, 1, 65536).await;
            flush(&disk).await;
        }
        let busy = disk.statistics();
        assert!(busy.growth.written_ahead_bytes > busy.growth.given_back_bytes);
        sleep(Duration::from_secs(5)).await.unwrap();
        let idle = disk.statistics();
        assert_eq!(idle.journal.checkpoints, busy.journal.checkpoints + 1);
        assert!(idle.growth.given_back_bytes > 0);
        let header = file::read_header(&storage).await.unwrap();
        let report = inspect(&storage, &header).await.unwrap().unwrap();
        assert_eq!((report.transactions, report.bytes), (1, 0));
        sleep(Duration::from_mins(1)).await.unwrap();
        assert_eq!(disk.statistics(), idle);
        write(&disk, 30 << 20, 1, 4096).await;
        disk.close().await.unwrap();
        let report = check(&storage, Repair::None).await.unwrap();
        assert_eq!(report.exit_status(), 0, "{report:#?}");
    });
}

/// A cluster at the end of the file is zeros already.
#[test]
fn a_small_write_to_a_new_cluster_writes_only_itself() {
    let options = CreateOptions::new(1 << 30);
    with_image_in(Order::Ordered, &options, |disk, storage| async move {
        write(&disk, 1 << 20, 1, 512).await;
        let before = storage.counters();
        write(&disk, 8192, 1, 512).await;
        assert_eq!(storage.counters().written_bytes - before.written_bytes, 512);
        assert_eq!(read(&disk, 0, 8192).await, [0; 8192]);
        assert_eq!(read(&disk, 8192 + 512, 4096).await, [0; 4096]);
    });
}

/// Leaves free clusters whose space waits to be given back, and then no space on the host.
async fn fill_host(disk: &dyn Disk, storage: &SimulatedStorage) {
    let place = |n: u64| (2000 + n) << 16;
    for n in 0..120 {
        write(disk, place(n), 7, 65536).await;
    }
    flush(disk).await;
    // Not next to each other in the file, for a simulated disk may ignore what it is told.
    for n in 0..60 {
        let discard = Request::discard(place(2 * n), 65536);
        disk.submit(discard).await.unwrap();
    }
    flush(disk).await;
    storage.set_capacity_bytes(storage.allocated_bytes());
}

/// New data on its way through the journal finds the place that was promised to it.
#[test]
fn full_host_gets_back_what_waits_before_a_flush_fails() {
    with_image(&CreateOptions::new(1 << 30), |disk, storage| async move {
        let (len, rounds) = (100, 20);
        for n in 0..len {
            write(&disk, n << 20, 1, 4096).await;
            flush(&disk).await;
        }
        fill_host(&disk, &storage).await;
        for n in 0..len * rounds {
            write(&disk, (n % len) << 20, 2, 4096).await;
            flush(&disk).await;
        }
        assert!(disk.statistics().journal.checkpoints > 1);
        assert_eq!(read(&disk, 99 << 20, 4096).await, [2; 4096]);
        disk.close().await.unwrap();
        let report = check(&storage, Repair::None).await.unwrap();
        assert_eq!(report.exit_status(), 0, "{report:#?}");
    });
}

#[test]
fn full_host_gets_back_what_waits_before_a_write_in_place_fails() {
    with_image(&CreateOptions::new(1 << 30), |disk, storage| async move {
        write(&disk, 0, 1, 4096).await;
        fill_host(&disk, &storage).await;
        // With nothing to spare, it takes no detour.
        write(&disk, 32768, 2, 4096).await;
        assert_eq!(disk.statistics().journal.full_blocks, 1);
        assert_eq!(read(&disk, 32768, 4096).await, [2; 4096]);
    });
}

/// What was discarded is reused only when nothing can point to it any more.
#[test]
fn freed_clusters_are_reused_after_a_flush_and_not_before() {
    with_image(&CreateOptions::new(1 << 30), |disk, _| async move {
        let place = async |offset| disk.extent(offset, 512).await.unwrap().host_offset;
        write(&disk, 0, 1, 65536).await;
        flush(&disk).await;
        let first = place(0).await;
        disk.submit(Request::discard(0, 65536)).await.unwrap();
        write(&disk, 1 << 20, 2, 65536).await;
        assert!(place(1 << 20).await > first);
        flush(&disk).await;
        disk.image.reclaim(Reclaim::All).await.unwrap();
        // Its zeros, if there are any, are durable with this.
        write(&disk, 1 << 20, 2, 512).await;
        flush(&disk).await;
        disk.image.reclaim(Reclaim::Usual).await.unwrap();
        write(&disk, 2 << 20, 3, 512).await;
        assert_eq!(place(2 << 20).await, first);
        assert_eq!(read(&disk, (2 << 20) + 512, 4096).await, [0; 4096]);
        assert_eq!(read(&disk, 0, 4096).await, [0; 4096]);
    });
}

/// A cluster is freed while more compressed data is on its way there, and then once more. It is free
/// when that is durable, not because the first time was.
#[test]
fn clusters_that_are_freed_twice_are_held_for_the_second_time() {
    with_image(&CreateOptions::new(1 << 30), |disk, _| async move {
        let image = &disk.image;
        // With this the journal begins.
        write(&disk, 2 << 20, 9, 512).await;
        let data = |byte| Buffers::from_vec(vec![byte; 65536]);
        image.write_compressed(0, &data(1)).await.unwrap();
        flush(&disk).await;
        let shared = image.free_space.packed.get().unwrap() >> 16;
        let second = data(2);
        let mut more = Box::pin(image.write_compressed(1 << 20, &second));
        while image.free_space.pins(shared) == 0 {
            let poll = poll_fn(|context| Poll::Ready(more.as_mut().poll(context)));
            assert!(poll.await.is_pending());
            yield_now().await;
        }
        image.discard(0, 65536).await.unwrap();
        image.flush().await.unwrap();
        assert_eq!(image.committer.freed.borrow().len(), 1);
        more.await.unwrap();
        image.flush().await.unwrap();
        image.discard(1 << 20, 65536).await.unwrap();
        image.reclaim(Reclaim::All).await.unwrap();
        assert!(!image.free_space.is_available(shared));
        image.flush().await.unwrap();
        image.reclaim(Reclaim::All).await.unwrap();
        assert!(image.free_space.is_available(shared));
    });
}

/// Until then a power cut could bring back what was there.
#[test]
fn clusters_that_were_given_back_are_held_until_their_zeros_are_durable() {
    let mut given_back = 0;
    for seed in 0..8 {
        let counted = Rc::new(Cell::new(0));
        let count = Rc::clone(&counted);
        with_image_at(seed, |disk, _| async move {
            let image = &disk.image;
            write(&disk, 0, 1, 65536).await;
            flush(&disk).await;
            let cluster = disk.extent(0, 512).await.unwrap().host_offset.unwrap() >> 16;
            disk.submit(Request::discard(0, 65536)).await.unwrap();
            flush(&disk).await;
            image.reclaim(Reclaim::All).await.unwrap();
            if image.committer.zeroed.borrow().is_empty() {
                return;
            }
            count.set(1);
            image.reclaim(Reclaim::Usual).await.unwrap();
            assert!(!image.free_space.is_available(cluster));
            write(&disk, 1 << 20, 2, 65536).await;
            flush(&disk).await;
            image.reclaim(Reclaim::Usual).await.unwrap();
            assert!(image.free_space.is_available(cluster));
            assert!(image.allocate(1).await.unwrap().is_zero);
        });
        given_back += counted.get();
    }
    assert!(given_back > 0);
}

/// The part that is mapped when a write fails keeps its clusters.
#[test]
fn a_write_that_fails_between_two_tables_leaves_a_whole_image() {
    let options = CreateOptions {
        cluster_bits: 9,
        ..CreateOptions::new(1 << 20)
    };
    // A table of 64 clusters ends in the middle of what is written.
    let (start, len) = ((64 - 2) * 512, 4 * 512);
    for skip in 0..16 {
        with_image(&options, |disk, storage| async move {
            write(&disk, start, 1, len).await;
            disk.create_snapshot(NewSnapshot::default()).await.unwrap();
            storage.inject(Fault::new(FaultyOperation::Read, libc::EIO).after(skip));
            let data = Buffers::from_vec(vec![2; len]);
            let result = disk.submit(Request::write(start, data)).await;
            storage.heal();
            flush(&disk).await;
            write(&disk, 1 << 19, 3, len).await;
            let content = read(&disk, start, len).await;
            match result {
                Ok(()) => assert_eq!(content, [2].repeat(len), "after {skip} reads"),
                Err(_) => assert!(content.iter().all(|byte| [1, 2].contains(byte))),
            }
            disk.close().await.unwrap();
            let report = check(&storage, Repair::None).await.unwrap();
            assert_eq!(report.exit_status(), 0, "after {skip} reads: {report:#?}");
        });
    }
}

/// A new image of 512-byte clusters whose header says what `change` makes of it.
async fn forged(change: impl FnOnce(&mut Header)) -> SimulatedStorage {
    let storage = SimulatedStorage::new(0, SEED);
    let options = CreateOptions {
        cluster_bits: 9,
        ..CreateOptions::new(1 << 20)
    };
    let mut header = create(&storage, &options).await.unwrap();
    change(&mut header);
    let bytes = header.encode().unwrap();
    file::write(&storage, 0, bytes).await.unwrap();
    storage
}

async fn refusal(storage: &SimulatedStorage) -> String {
    let opened = Qcow2::open(storage.clone(), Parts::default()).await;
    opened.err().expect("refused").to_string()
}

/// Bitmaps are marked as in use before the first write: not where something else is.
#[test]
fn a_bitmap_directory_that_cannot_be_one_is_refused() {
    let executor = Executor::with_backend(Backend::Simulated { seed: SEED }).unwrap();
    executor.run(async {
        for offset in [u64::MAX - 11, 1 << 48, 512, 0] {
            let storage = forged(|header| {
                header.autoclear = AutoclearFeatures(AutoclearFeatures::BITMAPS);
                header.bitmaps = Some(BitmapsExtension {
                    count: 3,
                    directory_bytes: 72,
                    directory_offset: offset,
                });
            })
            .await;
            let before = storage.to_bytes();
            let refused = refusal(&storage).await;
            assert!(refused.contains("the bitmap directory"), "{refused}");
            // But for the mark that it is corrupt.
            assert!(storage.to_bytes()[80..] == before[80..], "at {offset:#x}");
        }
    });
}

/// The memory that it takes to open an image is bounded, whatever its snapshots say.
#[test]
fn absurd_snapshots_are_refused() {
    let executor = Executor::with_backend(Backend::Simulated { seed: SEED }).unwrap();
    executor.run(async {
        for (count, l1_entries, problem) in [
            (1, u32::MAX, "than can be kept track of"),
            (300, 1 << 22, "than can be kept track of"),
            (1, (1 << 22) + 1, "larger than 32 MiB"),
        ] {
            let storage = forged(|header| {
                header.snapshots = count;
                header.snapshots_offset = 1 << 20;
            })
            .await;
            let table: Vec<u8> = (0..u64::from(count))
                .flat_map(|n| {
                    let entry = SnapshotEntry {
                        l1_offset: (1 << 30) + (n << 25),
                        l1_entries,
                        id: n.to_string(),
                        name: n.to_string(),
                        date_seconds: 0,
                        date_ns: 0,
                        vm_clock_ns: 0,
                        vm_state_bytes: 0,
                        disk_bytes: Some(1 << 20),
                        unknown_extra: Vec::new(),
                        raw_names: None,
                    };
                    entry.encode(0)
                })
                .collect();
            file::write(&storage, 1 << 20, table).await.unwrap();
            storage.set_len(1 << 40).await.unwrap();
            let refused = refusal(&storage).await;
            assert!(refused.contains(problem), "{refused}");
        }
    });
}

/// What is sound of a damaged image can be saved.
#[test]
fn a_damaged_image_can_be_read_but_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    with_image(&CreateOptions::new(2 << 30), |disk, storage| async move {
        write(&disk, 0, 1, 65536).await;
        disk.close().await.unwrap();
        // The second L2 table is said to be in the refcount table.
        let header = disk.header();
        let entry = (1 << 63 | header.refcount_table_offset).to_be_bytes();
        file::write(&storage, header.l1_offset + 8, entry.to_vec())
            .await
            .unwrap();
        std::fs::write(&path, storage.to_bytes()).unwrap();
    });
    let path = directory.path().join("image");
    Executor::new().unwrap().run(async {
        let options = || OpenOptions::new(&path).format(Format::Qcow2);
        let refused = options().open().await.err().expect("refused").to_string();
        assert!(refused.contains("overlap"), "{refused}");
        let disk = options().read_only(true).open().await.unwrap();
        assert_eq!(read(&*disk, 0, 65536).await, vec![1; 65536]);
        let beyond = Request::read(512 << 20, Buffers::zeroed(512));
        let refused = disk.submit(beyond).await.unwrap_err().to_string();
        assert!(refused.contains("points to something else"), "{refused}");
        disk.close().await.unwrap();
    });
}

/// Afterwards the file may be another's.
#[test]
fn nothing_is_written_after_the_image_is_closed() {
    with_image(&CreateOptions::new(1 << 30), |disk, storage| async move {
        let disk = Rc::new(disk);
        // In one cluster, where one waits for the other.
        for n in 0..64 {
            let data = Buffers::from_vec(vec![2; 512]);
            let mut request = disk.submit(Request::write(n * 512, data));
            // Whoever wanted it goes away.
            let once = poll_fn(|context| Poll::Ready(request.as_mut().poll(context).is_ready()));
            assert!(!once.await);
        }
        disk.close().await.unwrap();
        let writes = storage.counters().writes;
        for _ in 0..100 {
            file::read(&storage, 0, 4096).await.unwrap();
        }
        assert_eq!(storage.counters().writes, writes);
        let report = check(&storage, Repair::None).await.unwrap();
        assert_eq!(report.exit_status(), 0, "{report:#?}");
    });
}

/// Otherwise the tables, which are written later, would find no room for what was written before.
#[test]
fn a_write_that_does_not_fit_gives_back_what_it_took() {
    with_image(&CreateOptions::new(1 << 30), |disk, storage| async move {
        write(&disk, 0, 1, 65536).await;
        flush(&disk).await;
        let before = storage.allocated_bytes();
        // A disk may ignore a discard.
        let mut left = Vec::new();
        for _ in 0..16 {
            // It is tried again once what was set aside is given back.
            storage.inject(Fault::new(FaultyOperation::Write, libc::ENOSPC).times(2));
            let data = Buffers::from_vec(vec![2; 1 << 20]);
            let result = disk.submit(Request::write(1 << 20, data)).await;
            result.unwrap_err();
            left.push(storage.allocated_bytes());
        }
        assert!(left.iter().any(|left| *left > before), "{left:?}");
        assert!(
            left.iter().any(|left| *left <= before),
            "{before}: {left:?}"
        );
    });
}

/// Otherwise one that shares a table of another part of the file with the guest would be believed.
#[test]
fn data_that_is_not_at_its_own_place_in_the_data_file_is_damage() {
    let executor = Executor::with_backend(Backend::Simulated { seed: SEED }).unwrap();
    executor.run(async {
        let storage = SimulatedStorage::new(0, SEED);
        let options = CreateOptions {
            data_file: Some(("data".into(), false)),
            ..CreateOptions::new(1 << 20)
        };
        create(&storage, &options).await.unwrap();
        let parts = || Parts {
            data_file: Some(SimulatedStorage::new(1 << 20, SEED)),
            ..Parts::default()
        };
        let disk = Qcow2::open(storage.clone(), parts()).await.unwrap();
        write(&disk, 0, 1, 65536).await;
        write(&disk, 65536, 2, 65536).await;
        let table = disk
            .image
            .kinds
            .borrow()
            .iter()
            .find_map(|(cluster, kind)| (*kind == image::Kind::L2Table).then_some(cluster << 16));
        disk.close().await.unwrap();
        let elsewhere = (1_u64 << 63 | 1 << 16).to_be_bytes().to_vec();
        let at = table.unwrap();
        storage
            .write_at(at, Buffers::from_vec(elsewhere))
            .await
            .unwrap();
        let disk = Qcow2::open(storage, parts()).await.unwrap();
        let buffers = Buffers::zeroed(512);
        let error = disk.submit(Request::read(0, buffers)).await.unwrap_err();
        assert!(error.to_string().contains("own place"), "{error}");
        assert_eq!(read(&disk, 65536, 512).await.len(), 512);
    });
}

/// With the smallest clusters and the widest refcounts, the refcount table has room for 2 MiB of
/// the file. The power is cut while it moves.
#[test]
fn the_refcount_table_grows_and_survives_power_cuts() {
    const WRITES: u64 = 48;
    const LEN: usize = 65536;
    let options = CreateOptions {
        cluster_bits: 9,
        refcount_bits: 64,
        ..CreateOptions::new(WRITES * LEN as u64)
    };
    seeded(2, |first| {
        let order = [Order::Journal, Order::Ordered][usize::from(first % 2 == 1)];
        with_image_in(order, &options, |disk, storage| async move {
            let mut recording = Recording::start(&[&storage]);
            let mut promised = Vec::new();
            for n in 0..WRITES {
                write(&disk, n * LEN as u64, 1 + n.to_le_bytes()[0], LEN).await;
                flush(&disk).await;
                promised.push(recording.steps());
            }
            let clusters = disk.header().refcount_table_clusters;
            assert!(clusters > 1, "the table has not grown");
            let last = recording.steps();
            for (seed, steps) in (0..last).step_by(7).chain([last]).enumerate() {
                let left = recording.power_cut(steps, first + seed as u64).remove(0);
                recover(&left).await.unwrap();
                let report = check(&left, Repair::None).await.unwrap();
                let leaks = if order == Order::Journal {
                    report.leaks
                } else {
                    0
                };
                assert_eq!((report.corruptions, leaks), (0, 0), "step {steps}");
                let disk = Qcow2::open(left, Parts::default()).await.unwrap();
                let flushed = promised.iter().filter(|end| **end <= steps).count();
                for n in 0..flushed as u64 {
                    let content = read(&disk, n * LEN as u64, LEN).await;
                    assert!(
                        content.iter().all(|byte| *byte == 1 + n.to_le_bytes()[0]),
                        "step {steps}: {n}"
                    );
                }
            }
            disk.close().await.unwrap();
            let report = check(&storage, Repair::None).await.unwrap();
            assert_eq!((report.corruptions, report.leaks), (0, 0));
        });
    });
}
