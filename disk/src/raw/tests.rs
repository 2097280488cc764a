//! Raw disks against a model, at power cuts, and under hostile requests.

mod block_device;
mod model;
mod power_cut;

use std::io;
use std::rc::Rc;

use tempfile::NamedTempFile;

use crate::reactor::{Operation, submit};
use crate::test_support::{join_all, real_backends};
use crate::{
    Backend, Buffers, Content, Disk, Error, Executor, Fault, FaultyOperation, FileOptions,
    OpenOptions, Raw, Request, SimulatedStorage, Storage,
};

const SECTOR: u64 = 512;

fn file(size_bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(size_bytes).unwrap();
    file
}

fn simulated(size_bytes: u64, seed: u64) -> (Executor, SimulatedStorage) {
    let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
    (executor, SimulatedStorage::new(size_bytes, seed))
}

async fn write(disk: &dyn Disk, offset: u64, byte: u8, len: usize) -> Result<(), Error> {
    let buffers = Buffers::zeroed(len);
    buffers.fill(byte);
    disk.submit(Request::write(offset, buffers)).await
}

async fn read(disk: &dyn Disk, offset: u64, len: usize) -> Vec<u8> {
    let buffers = Buffers::zeroed(len);
    disk.submit(Request::read(offset, buffers.clone()))
        .await
        .unwrap();
    buffers.to_vec()
}

/// The bytes of the host's disk that a file takes.
fn allocated(file: &NamedTempFile) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&file.as_file().metadata().unwrap()) * 512
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeros() {
    for backend in real_backends() {
        let file = file(1 << 20);
        Executor::with_backend(backend).unwrap().run(async {
            let disk = OpenOptions::new(file.path()).open().await.unwrap();
            write(&*disk, 0, 7, 1 << 20).await.unwrap();
            disk.submit(Request::flush()).await.unwrap();
            let full = allocated(&file);
            let ranges = [
                Request::discard(4096, 65536),
                Request::write_zeroes(131_072 + SECTOR, 65536, false),
                Request::write_zeroes(262_144, 65536, true),
            ];
            for range in ranges {
                let (offset, len) = (range.offset, usize::try_from(range.len).unwrap());
                disk.submit(range).await.unwrap();
                assert_eq!(read(&*disk, offset, len).await, vec![0; len]);
                assert_eq!(read(&*disk, offset - SECTOR, 512).await, [7; 512]);
                assert_eq!(read(&*disk, offset + len as u64, 512).await, [7; 512]);
            }
            assert!(allocated(&file) < full, "no space was given back");
            let statistics = disk.statistics();
            assert_eq!((statistics.discards, statistics.write_zeroes), (1, 2));
        });
    }
}

#[test]
fn zeros_are_written_where_the_host_cannot_zero() {
    for backend in real_backends() {
        let file = file(3 << 20);
        Executor::with_backend(backend).unwrap().run(async {
            let storage = FileOptions::new(file.path()).open().unwrap();
            storage
                .write_at(0, Buffers::from_vec(vec![7; 3 << 20]))
                .await
                .unwrap();
            storage.assume_plain_host();
            storage
                .write_zeroes(SECTOR, (3 << 20) - 1024, true)
                .await
                .unwrap();
            let content = Buffers::zeroed(3 << 20);
            storage.read_at(0, content.clone()).await.unwrap();
            let content = content.to_vec();
            assert!(
                content[..512]
                    .iter()
                    .chain(&content[(3 << 20) - 512..])
                    .all(|b| *b == 7)
            );
            assert!(content[512..(3 << 20) - 512].iter().all(|b| *b == 0));
        });
    }
}

#[test]
fn hostile_requests_are_refused() {
    let (executor, storage) = simulated(8192, 1);
    let disk = Raw::new(storage.clone()).unwrap();
    let sector = || Buffers::zeroed(512);
    let mismatched = Request {
        len: 1024,
        ..Request::write(0, sector())
    };
    let refused = [
        Request::read(8192, sector()),
        Request::read(u64::MAX - 511, sector()),
        Request::write(u64::MAX, sector()),
        Request::write(100, sector()),
        Request::write(0, Buffers::zeroed(100)),
        Request::discard(0, u64::MAX),
        Request::discard(4096, 4608),
        Request::write_zeroes(u64::MAX - 511, u64::MAX - 511, true),
        mismatched,
    ];
    let count = refused.len() as u64;
    executor.run(async {
        for request in refused {
            let shown = format!("{request:?}");
            let result = disk.submit(request).await;
            assert!(
                matches!(result, Err(Error::Request { .. })),
                "{shown}: {result:?}"
            );
        }
        disk.submit(Request::discard(8192, 0)).await.unwrap();
        disk.submit(Request::read(8192, Buffers::zeroed(0)))
            .await
            .unwrap();
    });
    assert_eq!(disk.statistics().errors, count);
    assert_eq!(storage.counters().writes, 0);
}

#[test]
fn read_only_disk_refuses_changes() {
    let file = file(4096);
    Executor::new().unwrap().run(async {
        let disk = OpenOptions::new(file.path())
            .read_only(true)
            .open()
            .await
            .unwrap();
        assert!(disk.properties().read_only);
        for request in [
            Request::write(0, Buffers::zeroed(512)),
            Request::discard(0, 512),
            Request::write_zeroes(0, 512, false),
        ] {
            let error = disk.submit(request).await.unwrap_err();
            assert!(matches!(error, Error::ReadOnly { .. }), "{error}");
        }
        disk.submit(Request::flush()).await.unwrap();
        assert_eq!(read(&*disk, 0, 4096).await, [0; 4096]);
        disk.close().await.unwrap();
    });
}

#[test]
fn full_host_is_reported_and_the_disk_goes_on() {
    let (executor, storage) = simulated(1 << 20, 2);
    let disk = Raw::new(storage.clone()).unwrap();
    executor.run(async {
        storage.set_capacity_bytes(8192);
        write(&disk, 0, 1, 8192).await.unwrap();
        let error = write(&disk, 65536, 2, 512).await.unwrap_err();
        let Error::Range {
            operation: "write",
            offset: 65536,
            source,
            ..
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        // What has its space is writable still, and the rest is after space is given back.
        write(&disk, 4096, 3, 512).await.unwrap();
        disk.submit(Request::write_zeroes(0, 4096, true))
            .await
            .unwrap();
        write(&disk, 65536, 2, 512).await.unwrap();
        assert_eq!(read(&disk, 65536, 512).await, [2; 512]);
        disk.submit(Request::flush()).await.unwrap();
    });
    assert_eq!(disk.statistics().errors, 1);
}

#[test]
fn errors_of_the_device_are_reported_and_the_disk_goes_on() {
    let (executor, storage) = simulated(1 << 20, 3);
    let disk = Raw::new(storage.clone()).unwrap();
    executor.run(async {
        storage.inject(
            Fault::new(FaultyOperation::Write, libc::EIO)
                .after(1)
                .times(2),
        );
        storage.inject(Fault::new(FaultyOperation::Read, libc::EIO));
        write(&disk, 0, 1, 512).await.unwrap();
        write(&disk, 512, 2, 512).await.unwrap_err();
        write(&disk, 512, 2, 512).await.unwrap_err();
        write(&disk, 512, 2, 512).await.unwrap();
        disk.submit(Request::read(0, Buffers::zeroed(512)))
            .await
            .unwrap_err();
        assert_eq!(read(&disk, 0, 512).await, [1; 512]);
        assert_eq!(read(&disk, 512, 512).await, [2; 512]);
    });
    assert_eq!(disk.statistics().errors, 3);
}

#[test]
fn no_flush_succeeds_after_one_has_failed() {
    let (executor, storage) = simulated(1 << 20, 4);
    let disk = Raw::new(storage.clone()).unwrap();
    executor.run(async {
        storage.inject(Fault::new(FaultyOperation::Sync, libc::EIO));
        write(&disk, 0, 1, 512).await.unwrap();
        let first = disk.submit(Request::flush()).await.unwrap_err();
        assert!(
            matches!(
                first,
                Error::Io {
                    operation: "flush",
                    ..
                }
            ),
            "{first}"
        );
        // The host would say yes now, though the first write may be lost.
        let second = disk.submit(Request::flush()).await.unwrap_err();
        assert!(
            matches!(second, Error::FlushFailedBefore { .. }),
            "{second}"
        );
        disk.close().await.unwrap_err();
        assert_eq!(read(&disk, 0, 512).await, [1; 512]);
    });
}

#[test]
fn flushes_share_syncs_and_need_none_without_changes() {
    let (executor, storage) = simulated(1 << 20, 5);
    let disk = Raw::new(storage.clone()).unwrap();
    executor.run(async {
        join_all((0..20).map(async |_| disk.submit(Request::flush()).await.unwrap())).await;
        assert_eq!(storage.counters().syncs, 1);
        write(&disk, 0, 1, 512).await.unwrap();
        join_all((0..20).map(async |_| disk.submit(Request::flush()).await.unwrap())).await;
        assert_eq!(storage.counters().syncs, 2);
        for n in 3..6 {
            write(&disk, 0, n, 512).await.unwrap();
            disk.submit(Request::flush()).await.unwrap();
            assert_eq!(storage.counters().syncs, u64::from(n));
        }
        // Each has a change of its own to flush, at its own time.
        join_all((0..20).map(async |n| {
            write(&disk, n * 4096, 2, 512).await.unwrap();
            disk.submit(Request::flush()).await.unwrap();
        }))
        .await;
        assert!(
            storage.counters().syncs < 5 + 20,
            "{:?}",
            storage.counters()
        );
        let before = storage.counters().syncs;
        disk.submit(Request::read(0, Buffers::zeroed(512)))
            .await
            .unwrap();
        disk.close().await.unwrap();
        assert_eq!(storage.counters().syncs, before);
    });
    assert_eq!(disk.statistics().host_syncs, storage.counters().syncs);
    assert_eq!(disk.statistics().flushes, 63);
}

#[test]
fn first_flush_covers_what_the_last_writer_left() {
    let (executor, storage) = simulated(1 << 20, 7);
    executor.run(async {
        // Killed: nobody flushes or closes.
        let killed = Raw::new(storage.clone()).unwrap();
        write(&killed, 0, 1, 4096).await.unwrap();
        drop(killed);
        let disk = Raw::new(storage.clone()).unwrap();
        assert_eq!(read(&disk, 0, 4096).await, [1; 4096]);
        disk.submit(Request::flush()).await.unwrap();
        for _ in 0..20 {
            let left = Raw::new(storage.power_cut()).unwrap();
            assert_eq!(read(&left, 0, 4096).await, [1; 4096]);
        }
    });
}

#[test]
fn dropped_flush_lets_others_go_on() {
    let (executor, storage) = simulated(1 << 20, 6);
    let disk = Rc::new(Raw::new(storage.clone()).unwrap());
    executor.run(async {
        write(&*disk, 0, 1, 512).await.unwrap();
        let mut first = disk.submit(Request::flush());
        std::future::poll_fn(|context| {
            assert!(first.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        let second = disk.submit(Request::flush());
        let drop_first = async {
            submit(Operation::Delay { duration_ns: 1 }).await.unwrap();
            drop(first);
        };
        let second: crate::BoxFuture<()> = Box::pin(async { second.await.unwrap() });
        join_all([second, Box::pin(drop_first)]).await;
    });
}

#[test]
fn sizes_that_no_disk_has_are_refused() {
    for (size_bytes, reason) in [(0, "it is empty"), (1000, "it can only be read")] {
        let file = file(size_bytes);
        let opened = Executor::new()
            .unwrap()
            .run(OpenOptions::new(file.path()).open());
        let message = opened.err().unwrap().to_string();
        assert!(
            message.starts_with(file.path().to_str().unwrap()),
            "{message}"
        );
        assert!(message.ends_with(reason), "{message}");
    }
}

#[test]
fn last_sector_that_is_only_read_is_filled_with_zeros() {
    for backend in real_backends() {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 1000]).unwrap();
        Executor::with_backend(backend).unwrap().run(async {
            let options = OpenOptions::new(file.path()).read_only(true);
            let disk = options.open().await.unwrap();
            assert_eq!(disk.properties().size_bytes, 1024);
            let dirty = Buffers::from_vec([9; 512]);
            let last = Request::read(512, dirty.clone());
            disk.submit(last).await.unwrap();
            assert!(dirty.to_vec() == [[7; 488].as_slice(), &[0; 24]].concat());
            assert!(read(&*disk, 0, 1024).await[..1000] == [7; 1000]);
            let past = Request::read(1024, Buffers::zeroed(512));
            disk.submit(past).await.unwrap_err();
            let extent = disk.extent(0, 1024).await.unwrap();
            assert_eq!((extent.len, extent.content), (1024, Content::Data));
        });
    }
}
