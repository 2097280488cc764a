//! What `stat` tells of the file and of the directory that it is in.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};

use super::abi::{Attr, SetattrIn, set};
use super::errno::Errno;

/// The unit in which `stat` counts space.
const SECTOR_BYTES: u64 = 512;
/// What programs should read and write in. The kernel makes it the size of its blocks.
const BLOCK_BYTES: u32 = 4096;
/// What of a mode is no type of file.
const PERMISSIONS: u32 = 0o7777;

/// The attributes of the file: those of the image file, as far as they are not the disk's.
pub(super) struct Attributes {
    /// Opened as a mere place: the file system may be mounted over the image itself.
    image: OwnedFd,
    size_bytes: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    accessed: Cell<Time>,
    modified: Cell<Time>,
    /// When any of this or the content was last changed.
    changed: Cell<Time>,
}

/// Since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time {
    seconds: u64,
    nanoseconds: u32,
}

impl Time {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or(Duration::ZERO);
        Self {
            seconds: since.as_secs(),
            nanoseconds: since.subsec_nanos(),
        }
    }
}

impl Attributes {
    /// Those of a disk of `size_bytes` in the image at `path`. Whoever may read or write the
    /// image may read or write the file.
    pub(super) fn of(path: &Path, size_bytes: u64, read_only: bool) -> io::Result<Self> {
        let image = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&image)?;
        let permitted = if read_only { 0o444 } else { 0o666 };
        let time = |seconds, nanoseconds| Time {
            seconds: u64::try_from(seconds).unwrap_or(0),
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
        };
        let modified = time(stat.st_mtime, stat.st_mtime_nsec);
        Ok(Self {
            image,
            size_bytes,
            mode: stat.st_mode & permitted,
            uid: stat.st_uid,
            gid: stat.st_gid,
            accessed: Cell::new(Time::now()),
            modified: Cell::new(modified),
            changed: Cell::new(modified),
        })
    }

    /// Something has been written.
    pub(super) fn modified(&self) {
        let now = Time::now();
        self.modified.set(now);
        self.changed.set(now);
    }

    /// Those of the file, which is node `ino`.
    pub(super) fn file(&self, ino: u64) -> Attr {
        Attr {
            size: self.size_bytes,
            blocks: self.blocks(),
            mode: FileType::RegularFile.as_raw_mode() | self.mode,
            nlink: 1,
            ..self.attr(ino)
        }
    }

    /// Those of the directory, which is node `ino`.
    pub(super) fn directory(&self, ino: u64) -> Attr {
        Attr {
            mode: FileType::Directory.as_raw_mode() | 0o555,
            nlink: 2,
            ..self.attr(ino)
        }
    }

    fn attr(&self, ino: u64) -> Attr {
        let (accessed, modified) = (self.accessed.get(), self.modified.get());
        let changed = self.changed.get();
        Attr {
            ino,
            atime: accessed.seconds,
            atime_ns: accessed.nanoseconds,
            mtime: modified.seconds,
            mtime_ns: modified.nanoseconds,
            ctime: changed.seconds,
            ctime_ns: changed.nanoseconds,
            uid: self.uid,
            gid: self.gid,
            blksize: BLOCK_BYTES,
            ..Attr::default()
        }
    }

    /// The space that the image takes on the host. Programs look for holes where it is less than
    /// the size. A block device does not say.
    fn blocks(&self) -> u64 {
        let is_file = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let stat = fstat(&self.image).ok().filter(is_file);
        let blocks = stat.and_then(|stat| u64::try_from(stat.st_blocks).ok());
        blocks.unwrap_or(self.size_bytes / SECTOR_BYTES)
    }

    /// Sets what can be set: times. A disk has the size that it has, and its permissions are those
    /// of the image; to set what is so already is no change.
    pub(super) fn set(&self, wanted: &SetattrIn) -> Result<(), Errno> {
        let is_set = |flag| wanted.valid & flag != 0;
        let changes = is_set(set::MODE) && wanted.mode & PERMISSIONS != self.mode & PERMISSIONS
            || is_set(set::UID) && wanted.uid != self.uid
            || is_set(set::GID) && wanted.gid != self.gid
            || is_set(set::SIZE) && wanted.size != self.size_bytes;
        if changes {
            return Err(Errno(libc::EPERM));
        }
        let time = |now, seconds, nanoseconds| {
            if now {
                return Time::now();
            }
            Time {
                seconds,
                nanoseconds,
            }
        };
        if is_set(set::ATIME) {
            let now = is_set(set::ATIME_NOW);
            self.accessed.set(time(now, wanted.atime, wanted.atime_ns));
        }
        if is_set(set::MTIME) {
            let now = is_set(set::MTIME_NOW);
            self.modified.set(time(now, wanted.mtime, wanted.mtime_ns));
        }
        if is_set(set::ATIME | set::MTIME) {
            self.changed.set(Time::now());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::{fs, io::Write as _};

    use super::*;

    const SIZE: u64 = 1 << 30;

    fn attributes(read_only: bool) -> Attributes {
        let mut image = tempfile::NamedTempFile::new().unwrap();
        image.write_all(&[1; 8192]).unwrap();
        fs::set_permissions(image.path(), fs::Permissions::from_mode(0o750)).unwrap();
        Attributes::of(image.path(), SIZE, read_only).unwrap()
    }

    #[test]
    fn permissions_are_those_of_the_image() {
        let mode = |read_only| attributes(read_only).file(2).mode;
        assert_eq!(mode(false), 0o100_640);
        assert_eq!(mode(true), 0o100_440);
        assert_eq!(attributes(false).directory(1).mode, 0o40_555);
    }

    #[test]
    fn a_sparse_image_is_told_from_a_full_one() {
        let attr = attributes(false).file(1);
        assert_eq!(attr.size, SIZE);
        assert!(attr.blocks < SIZE / SECTOR_BYTES, "{}", attr.blocks);
    }

    #[test]
    fn only_times_can_be_set() {
        let attributes = attributes(false);
        let set = |valid, size| {
            attributes.set(&SetattrIn {
                valid,
                size,
                mtime: 12,
                mtime_ns: 34,
                ..SetattrIn::default()
            })
        };
        assert_eq!(set(set::SIZE, SIZE), Ok(()));
        let before = attributes.file(1);
        for (valid, size) in [(set::SIZE, 0), (set::SIZE, SIZE + 1), (set::MODE, 0)] {
            assert_eq!(set(valid | set::MTIME, size), Err(Errno(libc::EPERM)));
        }
        assert_ne!(attributes.file(1).mtime, 12);
        assert_eq!(set(set::MTIME, 0), Ok(()));
        let attr = attributes.file(1);
        assert_eq!((attr.mtime, attr.mtime_ns), (12, 34));
        assert!((attr.ctime, attr.ctime_ns) > (before.ctime, before.ctime_ns));
        assert_eq!(set(set::MTIME | set::MTIME_NOW, 0), Ok(()));
        assert_ne!(attributes.file(1).mtime, 12);
    }

    #[test]
    fn to_set_what_is_so_already_is_no_error() {
        let attributes = attributes(false);
        let Attr { mode, uid, gid, .. } = attributes.file(1);
        let so = SetattrIn {
            valid: set::MODE | set::UID | set::GID,
            mode,
            uid,
            gid,
            ..SetattrIn::default()
        };
        assert_eq!(attributes.set(&so), Ok(()));
        for other in [
            SetattrIn {
                mode: mode ^ 1,
                ..so
            },
            SetattrIn { uid: uid + 1, ..so },
            SetattrIn { gid: gid + 1, ..so },
        ] {
            assert_eq!(attributes.set(&other), Err(Errno(libc::EPERM)));
        }
    }
}
