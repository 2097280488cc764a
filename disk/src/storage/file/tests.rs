//! Opening, locking and reading files.

use std::path::Path;
use std::process::Command;

use super::FileStorage;
use super::direct::Direct;
use crate::test_support::real_backends;
use crate::{Buffers, Error, Executor, FileOptions, Format, OpenOptions, Storage};

impl FileStorage {
    /// Behaves as on a host that can zero no range by itself.
    pub(crate) fn assume_plain_host(&self) {
        self.cannot_punch_holes.set(true);
        self.cannot_zero_ranges.set(true);
    }

    /// Behaves as with direct I/O on a device with such blocks.
    pub(crate) fn assume_large_blocks(&mut self, block_bytes: u64) {
        self.direct = Some(Direct::with_alignment(512, block_bytes));
    }
}

fn file(size_bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size_bytes).unwrap();
    file
}

fn open(path: &Path, read_only: bool) -> Result<FileStorage, Error> {
    FileOptions::new(path).read_only(read_only).open()
}

/// The message of the error that opening the path as a disk gives.
fn refusal(path: &Path) -> String {
    let opened = Executor::new().unwrap().run(OpenOptions::new(path).open());
    let message = opened.err().expect("should be refused").to_string();
    assert!(message.starts_with(path.to_str().unwrap()), "{message}");
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn a_file_without_direct_io_is_refused_in_words() {
    // No file of procfs has it.
    let options = OpenOptions::new("/proc/self/status")
        .read_only(true)
        .direct(true);
    let opened = Executor::new().unwrap().run(options.open());
    let message = opened.err().expect("should be refused").to_string();
    let expected = "/proc/self/status: the host cannot do direct I/O on it; leave out direct=on";
    assert_eq!(message, expected);
}

#[test]
fn writers_exclude_writers_and_readers() {
    let file = file(4096);
    let writer = open(file.path(), false).unwrap();
    for read_only in [false, true] {
        let error = open(file.path(), read_only).err().unwrap();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        assert!(
            error.to_string().contains(file.path().to_str().unwrap()),
            "{error}"
        );
    }
    drop(writer);
    open(file.path(), false).unwrap();
}

#[test]
fn readers_share_and_exclude_writers() {
    let file = file(4096);
    let first = open(file.path(), true).unwrap();
    let second = open(file.path(), true).unwrap();
    assert!(matches!(open(file.path(), false), Err(Error::InUse { .. })));
    drop((first, second));
    open(file.path(), false).unwrap();
}

#[test]
fn close_gives_the_lock_back() {
    let file = file(4096);
    let executor = Executor::new().unwrap();
    executor.run(async {
        let disk = OpenOptions::new(file.path()).open().await.unwrap();
        assert!(OpenOptions::new(file.path()).open().await.is_err());
        disk.close().await.unwrap();
        OpenOptions::new(file.path()).open().await.unwrap();
        drop(disk);
    });
}

#[test]
fn what_is_no_disk_is_named() {
    let directory = tempfile::tempdir().unwrap();
    assert!(refusal(directory.path()).contains("a directory"));
    assert!(refusal(&directory.path().join("missing")).contains("No such file"));
    assert!(refusal(Path::new("/dev/null")).contains("a character device"));
    let fifo = directory.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    assert!(refusal(&fifo).contains("a FIFO"));
}

#[test]
fn other_formats_are_never_guessed() {
    let file = file(1 << 20);
    std::os::unix::fs::FileExt::write_all_at(file.as_file(), b"QFI\xfb\0\0\0\x03", 0).unwrap();
    assert!(refusal(file.path()).contains("give its format"));
    let options = OpenOptions::new(file.path()).format("raw".parse::<Format>().unwrap());
    let disk = Executor::new().unwrap().run(options.open()).unwrap();
    assert_eq!(disk.properties().size_bytes, 1 << 20);
    let unknown = "vdi".parse::<Format>().unwrap_err().to_string();
    assert!(unknown.contains("'vdi'"), "{unknown}");
}

#[test]
fn read_past_the_end_is_an_error_and_a_write_grows_the_file() {
    let file = file(1000);
    let storage = open(file.path(), false).unwrap();
    Executor::new().unwrap().run(async {
        let error = storage
            .read_at(900, Buffers::zeroed(200))
            .await
            .unwrap_err();
        let Error::Range { source, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof);
        storage
            .write_at(900, Buffers::from_vec([1; 200]))
            .await
            .unwrap();
        assert_eq!(storage.size_bytes(), 1100);
        storage.read_at(900, Buffers::zeroed(200)).await.unwrap();
        storage.set_len(950).await.unwrap();
        assert_eq!(file.as_file().metadata().unwrap().len(), 950);
        assert_eq!(storage.size_bytes(), 950);
        storage
            .write_at(u64::MAX - 10, Buffers::zeroed(100))
            .await
            .unwrap_err();
    });
}

#[test]
fn requests_that_write_zeros_share_them() {
    let file = file(1 << 20);
    let storage = open(file.path(), false).unwrap();
    storage.assume_plain_host();
    Executor::new().unwrap().run(async {
        let mut zeros = Vec::new();
        for _ in 0..2 {
            storage.write_zeroes(0, 1 << 20, false).await.unwrap();
            let memory = storage.zeros.get().unwrap().segments().next().unwrap();
            zeros.push((memory.iov_base, memory.iov_len));
        }
        assert_eq!(zeros[0], zeros[1]);
    });
}

#[test]
fn more_segments_than_one_call_takes() {
    let file = file(0);
    let storage = open(file.path(), false).unwrap();
    let memory = Buffers::zeroed(5000);
    memory.copy_from(
        &(0..5000)
            .map(|n: u32| n.to_le_bytes()[0])
            .collect::<Vec<_>>(),
    );
    let segments = (0..5000).flat_map(|n| memory.slice(n..n + 1).segments().collect::<Vec<_>>());
    // SAFETY: the segments lie in `memory`, which is the owner.
    let bytes = unsafe { Buffers::from_raw(segments, std::sync::Arc::new(memory.clone())) };
    Executor::new().unwrap().run(async {
        storage.write_at(0, bytes).await.unwrap();
        let read = Buffers::zeroed(5000);
        storage.read_at(0, read.clone()).await.unwrap();
        assert!(read.to_vec() == memory.to_vec());
    });
}

#[test]
fn extents_tell_data_from_holes() {
    let file = file(4 << 20);
    for executor in real_backends()
        .into_iter()
        .map(|backend| Executor::with_backend(backend).unwrap())
    {
        executor.run(async {
            let storage = open(file.path(), false).unwrap();
            let data = Buffers::from_vec(vec![1; 1 << 20]);
            storage.write_at(1 << 20, data).await.unwrap();
            let extent = async |offset: u64, len: u64| {
                let found = storage.extent(offset, len).await.unwrap();
                (found.len, found.data)
            };
            assert_eq!(extent(0, 1 << 30).await, (1 << 20, false));
            assert_eq!(extent(0, 5).await, (5, false));
            assert_eq!(extent(1 << 20, 1 << 30).await, (1 << 20, true));
            assert_eq!(extent((1 << 20) + 512, 512).await, (512, true));
            assert_eq!(extent(2 << 20, 1 << 30).await, (1 << 30, false));
            assert_eq!(extent(1 << 40, 512).await, (512, false));
        });
    }
}

/// Whoever copies by extents would take zeros for what reads refuse.
#[test]
fn what_somebody_has_cut_off_is_no_hole() {
    let file = file(4 << 20);
    Executor::new().unwrap().run(async {
        let storage = open(file.path(), false).unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let extent = async |offset: u64| {
            let found = storage.extent(offset, 1 << 30).await.unwrap();
            (found.len, found.data)
        };
        assert_eq!(extent(0).await, (1 << 20, false));
        assert_eq!(extent(1 << 20).await, (3 << 20, true));
        assert_eq!(extent(4 << 20).await, (1 << 30, false));
        let read = storage.read_at(2 << 20, Buffers::zeroed(512)).await;
        read.unwrap_err();
    });
}

#[test]
fn barrier_is_there_only_if_the_host_does_the_call() {
    let file = file(0);
    let barrier = |number: Option<libc::c_long>| {
        let mut options = FileOptions::new(file.path());
        if let Some(number) = number {
            options = options.barrier_syscall(number.try_into().unwrap());
        }
        let storage = options.open().unwrap();
        let done = Executor::new().unwrap().run(storage.barrier());
        assert_eq!(storage.has_barrier(), done.is_ok());
        done.map_err(|error| error.to_string())
    };
    let unknown = barrier(None).unwrap_err();
    assert!(unknown.ends_with("barrier-syscall=N gives"), "{unknown}");
    let missing = barrier(Some(9999)).unwrap_err();
    assert!(missing.contains("number 9999"), "{missing}");
    assert!(missing.contains("not implemented"), "{missing}");
    // Says a number that is not 0.
    barrier(Some(libc::SYS_getpid)).unwrap_err();
    // A sync keeps an order, and takes the same argument.
    barrier(Some(libc::SYS_fdatasync)).unwrap();
}
