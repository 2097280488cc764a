//! What only shows inside the engine; the whole is tested against models in `qcow2::tests`.

use super::*;
use crate::qcow2::{CreateOptions, NewSnapshot, Repair, check, create};
use crate::{Backend, Executor, Fault, FaultyOperation, SimulatedStorage};

const SEED: u64 = 1;

/// Runs `test` on a new image without snapshots or a backing file.
fn with_image<F: Future<Output = ()>>(
    options: &CreateOptions,
    test: impl FnOnce(Qcow2<SimulatedStorage>, SimulatedStorage) -> F,
) {
    let executor = Executor::with_backend(Backend::Simulated { seed: SEED }).unwrap();
    executor.run(async {
        let storage = SimulatedStorage::new(0, SEED);
        create(&storage, options).await.unwrap();
        let disk = Qcow2::open(storage.clone(), Parts::default())
            .await
            .unwrap();
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

/// Refcounts need no sync of their own: they go with the data, before the one that precedes the
/// mapping.
#[test]
fn a_flush_after_an_allocating_write_costs_two_syncs_and_two_sectors() {
    with_image(&CreateOptions::new(1 << 30), |disk, storage| async move {
        for n in 0..3 {
            write(&disk, n << 20, 1, 4096).await;
            flush(&disk).await;
        }
        let (before, syncs) = (storage.counters(), disk.statistics().host_syncs);
        let metadata_bytes = disk.statistics().metadata_bytes;
        write(&disk, 100 << 16, 1, 4096).await;
        flush(&disk).await;
        assert_eq!(disk.statistics().host_syncs - syncs, 2);
        assert_eq!(storage.counters().syncs - before.syncs, 2);
        assert_eq!(storage.counters().writes - before.writes, 3);
        assert_eq!(disk.statistics().metadata_bytes - metadata_bytes, 1024);
    });
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

/// A cluster at the end of the file is zeros already.
#[test]
fn a_small_write_to_a_new_cluster_writes_only_itself() {
    with_image(&CreateOptions::new(1 << 30), |disk, storage| async move {
        let before = storage.counters();
        write(&disk, 8192, 1, 512).await;
        assert_eq!(storage.counters().written_bytes - before.written_bytes, 512);
        assert_eq!(read(&disk, 0, 8192).await, [0; 8192]);
        assert_eq!(read(&disk, 8192 + 512, 4096).await, [0; 4096]);
    });
}

/// What was discarded is reused only when nothing can point to it any more.
#[test]
fn freed_clusters_are_reused_after_a_flush_and_not_before() {
    with_image(&CreateOptions::new(1 << 30), |disk, storage| async move {
        write(&disk, 0, 1, 65536).await;
        flush(&disk).await;
        let end = storage.size_bytes().next_multiple_of(65536);
        disk.submit(Request::discard(0, 65536)).await.unwrap();
        write(&disk, 1 << 20, 2, 65536).await;
        assert_eq!(storage.size_bytes(), end + 65536);
        flush(&disk).await;
        disk.image.reclaim().await.unwrap();
        write(&disk, 2 << 20, 3, 512).await;
        assert_eq!(storage.size_bytes(), end + 65536);
        assert_eq!(read(&disk, (2 << 20) + 512, 4096).await, [0; 4096]);
        assert_eq!(read(&disk, 0, 4096).await, [0; 4096]);
    });
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
