//! Holes of the raw file: how they are made, and how they are found.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::setting::{FORMATS, Setting, can_mount};

const MIB: u64 = 1 << 20;

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn data(file: &File, offset: u64) -> Result<u64, Errno> {
    seek(file.as_fd(), SeekFrom::Data(offset))
}

fn hole(file: &File, offset: u64) -> Result<u64, Errno> {
    seek(file.as_fd(), SeekFrom::Hole(offset))
}

#[test]
fn what_is_punched_or_zeroed_reads_as_zeros() {
    if !can_mount("what_is_punched_or_zeroed_reads_as_zeros") {
        return;
    }
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let zero = FallocateFlags::ZERO_RANGE;
    for format in FORMATS {
        let setting = Setting::new();
        let image = setting.image(format, 16);
        let mounted = setting.mount(&image);
        let file = mounted.open();
        let mut model = vec![7; 16 << 20];
        file.write_all_at(&model, 0).unwrap();
        for (flags, offset, len) in [
            (punch, MIB, 2 * MIB),
            // Bytes, not sectors or clusters.
            (punch, 5 * MIB - 3, 70_001),
            (punch, 7 * MIB + 1, 10),
            (zero, 8 * MIB, MIB),
            (zero | FallocateFlags::KEEP_SIZE, 10 * MIB + 511, 1026),
            (punch, 15 * MIB, 4 * MIB),
            (zero | FallocateFlags::KEEP_SIZE, 16 * MIB - 10, MIB),
        ] {
            fallocate(&file, flags, offset, len).unwrap();
            let end = (offset + len).min(16 * MIB);
            model[usize::try_from(offset).unwrap()..usize::try_from(end).unwrap()].fill(0);
            assert!(read(&file, 0, model.len()) == model, "{format:?} {offset}");
        }
        file.sync_all().unwrap();
        drop(file);
        mounted.stop();
        setting.check(format.0);
        assert!(setting.content(format.0) == model, "{format:?}");
    }
}

#[test]
fn what_cannot_be_allocated_is_refused() {
    if !can_mount("what_cannot_be_allocated_is_refused") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 4);
    let mounted = setting.mount(&image);
    let file = mounted.open();
    for flags in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE] {
        let error = fallocate(&file, flags, 0, MIB).unwrap_err();
        assert_eq!(error, Errno::OPNOTSUPP);
    }
    // It would grow.
    let error = fallocate(&file, FallocateFlags::ZERO_RANGE, 3 * MIB, 2 * MIB);
    assert_eq!(error.unwrap_err(), Errno::NOSPC);
    assert_eq!(file.metadata().unwrap().len(), 4 * MIB);
    drop(file);
    mounted.stop();
}

#[test]
fn a_hole_gives_its_space_back() {
    if !can_mount("a_hole_gives_its_space_back") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("raw", ""), 16);
    let mounted = setting.mount(&image);
    let file = mounted.open();
    file.write_all_at(&vec![7; 8 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let blocks = || fs::metadata(setting.path("image")).unwrap().blocks();
    let before = blocks();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 0, 6 * MIB).unwrap();
    file.sync_all().unwrap();
    assert!(before - blocks() >= 6 * MIB / 512, "{before} {}", blocks());
    drop(file);
    mounted.stop();
}

#[test]
fn data_and_holes_are_found() {
    if !can_mount("data_and_holes_are_found") {
        return;
    }
    for format in FORMATS {
        let setting = Setting::new();
        let image = setting.image(format, 64);
        let mounted = setting.mount(&image);
        let file = mounted.open();
        let size = 64 * MIB;
        assert_eq!(data(&file, 0), Err(Errno::NXIO));
        assert_eq!(hole(&file, 0), Ok(0));
        // More pieces than are looked at in one go.
        for piece in 0..200 {
            file.write_all_at(&vec![7; 128 << 10], (piece * 2) << 17)
                .unwrap();
        }
        for piece in 0..200 {
            let start = (piece * 2) << 17;
            assert_eq!(hole(&file, start + 5), Ok(start + (128 << 10)));
            assert_eq!(data(&file, start + 7), Ok(start + 7));
            let next = if piece == 199 {
                Err(Errno::NXIO)
            } else {
                Ok(start + (256 << 10))
            };
            assert_eq!(data(&file, start + (128 << 10)), next, "{format:?} {piece}");
        }
        // Without an end in sight.
        file.write_all_at(&vec![7; 128 << 10], size - (128 << 10))
            .unwrap();
        assert_eq!(data(&file, 60 * MIB), Ok(size - (128 << 10)));
        assert_eq!(hole(&file, size - 1), Ok(size));
        for offset in [size, size + 1] {
            assert_eq!(data(&file, offset), Err(Errno::NXIO));
            assert_eq!(hole(&file, offset), Err(Errno::NXIO));
        }
        drop(file);
        mounted.stop();
    }
}
