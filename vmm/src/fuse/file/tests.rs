use std::future::Future;
use std::os::unix::fs::FileExt as _;

use disk::{Executor, OpenOptions};
use tempfile::NamedTempFile;

use super::*;

const SIZE: u64 = 1 << 20;

/// Runs `test` on the file of a raw image, and returns what the image holds then.
fn with_file<F: Future<Output = ()>>(
    read_only: bool,
    test: impl FnOnce(Rc<RawFile>) -> F,
) -> Vec<u8> {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(SIZE).unwrap();
    image.as_file().write_all_at(&vec![1; 65536], 0).unwrap();
    Executor::new().unwrap().run(async {
        let options = OpenOptions::new(image.path()).read_only(read_only);
        let disk = options.open().await.unwrap();
        let file = RawFile::new(image.path(), Rc::clone(&disk)).unwrap();
        test(Rc::new(file)).await;
        disk.close().await.unwrap();
    });
    std::fs::read(image.path()).unwrap()
}

fn allocate(mode: i32, offset: u64, len: u64) -> FallocateIn {
    FallocateIn {
        offset,
        len,
        mode: mode.cast_unsigned(),
        ..FallocateIn::default()
    }
}

async fn read(file: &RawFile, offset: u64, len: u32) -> Vec<u8> {
    let data = file.read(offset, len).await.unwrap();
    data.map_or_else(Vec::new, |memory| {
        memory.slice(crate::export::HEADROOM..memory.len()).to_vec()
    })
}

#[test]
fn reads_and_writes_end_with_the_file() {
    with_file(false, async |file| {
        let data = Buffers::from_vec([7; 1000]);
        assert_eq!(file.write(SIZE - 600, data.clone()).await, Ok(600));
        assert_eq!(read(&file, SIZE - 601, 4096).await.len(), 601);
        for offset in [SIZE, SIZE + 1, u64::MAX] {
            let written = file.write(offset, data.clone()).await;
            assert_eq!(written, Err(Errno(libc::ENOSPC)));
            assert!(read(&file, offset, 4096).await.is_empty());
        }
        assert_eq!(file.write(u64::MAX, data.slice(0..0)).await, Ok(0));
        let too_much = file.read(0, TRANSFER_MAX_BYTES + 1).await;
        assert_eq!(too_much.err(), Some(Errno(libc::EINVAL)));
    });
}

#[test]
fn holes_are_zeros_to_the_byte() {
    let content = with_file(false, async |file| {
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        file.allocate(&allocate(punch, 100, 9000)).await.unwrap();
        let keep_size = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let to_the_end = allocate(keep_size, 60_000, u64::MAX);
        file.allocate(&to_the_end).await.unwrap();
        for (mode, errno) in [
            (libc::FALLOC_FL_ZERO_RANGE, libc::ENOSPC),
            (libc::FALLOC_FL_PUNCH_HOLE, libc::EOPNOTSUPP),
            (libc::FALLOC_FL_COLLAPSE_RANGE, libc::EOPNOTSUPP),
            (0, libc::EOPNOTSUPP),
        ] {
            let refused = file.allocate(&allocate(mode, SIZE - 1, 2)).await;
            assert_eq!(refused, Err(Errno(errno)), "{mode}");
        }
    });
    let ones: Vec<_> = (0_usize..1 << 20).filter(|&at| content[at] == 1).collect();
    let expected: Vec<_> = (0..100).chain(9100..60_000).collect();
    assert!(ones == expected);
}

#[test]
fn data_and_holes_are_found_from_within() {
    with_file(false, async |file| {
        let (data, hole) = (
            libc::SEEK_DATA.cast_unsigned(),
            libc::SEEK_HOLE.cast_unsigned(),
        );
        assert_eq!(file.seek(5, data).await, Ok(5));
        assert_eq!(file.seek(5, hole).await, Ok(65536));
        assert_eq!(file.seek(65536, data).await, Err(Errno(libc::ENXIO)));
        for whence in [data, hole] {
            assert_eq!(file.seek(SIZE, whence).await, Err(Errno(libc::ENXIO)));
            assert_eq!(file.seek(u64::MAX, whence).await, Err(Errno(libc::ENXIO)));
        }
        assert_eq!(file.seek(0, 0).await, Err(Errno(libc::EINVAL)));
        file.write(SIZE - 1, Buffers::from_vec([1])).await.unwrap();
        assert_eq!(file.seek(SIZE - 1, hole).await, Ok(SIZE));
    });
}

#[test]
fn a_read_only_file_is_not_changed() {
    let content = with_file(true, async |file| {
        let read_only = Errno(libc::EROFS);
        let written = file.write(0, Buffers::from_vec([7])).await;
        assert_eq!(written, Err(read_only));
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        assert_eq!(
            file.allocate(&allocate(punch, 0, 512)).await,
            Err(read_only)
        );
        let opened = |flags: i32| file.check_open(flags.cast_unsigned());
        assert_eq!(opened(libc::O_RDONLY), Ok(()));
        assert_eq!(opened(libc::O_RDWR | libc::O_DIRECT), Err(read_only));
        assert_eq!(file.sync().await, Ok(()));
    });
    assert_eq!(content[0], 1);
}

#[test]
fn what_is_written_is_told_by_the_times() {
    with_file(false, async |file| {
        let before = file.attributes.file(1);
        file.write(0, Buffers::from_vec([7])).await.unwrap();
        let after = file.attributes.file(1);
        assert!((after.mtime, after.mtime_ns) > (before.mtime, before.mtime_ns));
        assert_eq!(after.size, SIZE);
    });
}
