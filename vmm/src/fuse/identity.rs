//! Which mount is ours, wherever it is by now: others mount over it, in its place, or rename the
//! directory that it is in.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The mounts of this program's namespace, in the form of `proc(5)`.
const TABLE: &str = "/proc/self/mountinfo";
/// `STATX_MNT_ID_UNIQUE`, since Linux 6.8: a number that is never used again.
const UNIQUE_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// A mount. What comes after it may have the same device and the same number, but not the same
/// unique one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: (u32, u32),
    /// The number in the table; zero before Linux 5.8, where the device has to do.
    number: u64,
    unique: u64,
}

/// Where a mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This path leads to it.
    At(PathBuf),
    /// It is there, but its path leads to what is mounted over it.
    Covered,
    /// It has been unmounted.
    Nowhere,
}

impl Identity {
    /// The mount that `path` leads to. Asks nothing of its file system, which may not be served
    /// yet, or not any more.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let flags = AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let numbered = statx(CWD, path, flags, StatxFlags::MNT_ID)?;
        let unique = statx(CWD, path, flags, UNIQUE_ID)?;
        Ok(Self {
            device: (numbered.stx_dev_major, numbered.stx_dev_minor),
            number: numbered.stx_mnt_id,
            unique: unique.stx_mnt_id,
        })
    }

    /// Looks for the mount.
    pub(super) fn find(&self) -> io::Result<Place> {
        let table = fs::read(TABLE)?;
        let mut is_there = false;
        for path in self.paths(&table) {
            // What cannot even be looked at is somebody else's.
            if Self::of(&path).is_ok_and(|found| found == *self) {
                return Ok(Place::At(path));
            }
            is_there = true;
        }
        Ok(if is_there {
            Place::Covered
        } else {
            Place::Nowhere
        })
    }

    /// Where the table has mounts that may be this one.
    fn paths(&self, table: &[u8]) -> Vec<PathBuf> {
        let lines = table.split(|&byte| byte == b'\n');
        lines.filter_map(|line| self.path(line)).collect()
    }

    fn path(&self, line: &[u8]) -> Option<PathBuf> {
        let mut words = line.split(|&byte| byte == b' ');
        let number = std::str::from_utf8(words.next()?).ok()?;
        let (_parent, device) = (words.next()?, words.next()?);
        let (_root, path) = (words.next()?, words.next()?);
        let (major, minor) = self.device;
        let is_ours = device == format!("{major}:{minor}").as_bytes()
            && (self.number == 0 || number.parse() == Ok(self.number));
        is_ours.then(|| unescaped(path))
    }
}

/// A path of the table, where blanks and backslashes are three octal digits behind a backslash.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut path = Vec::new();
    let mut rest = word;
    while let Some((&byte, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| byte == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(escaped) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            path.push(escaped);
            rest = &behind[3..];
        } else {
            path.push(byte);
            rest = behind;
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_device_and_number() {
        let table = b"22 1 0:21 / /proc rw - proc proc rw\n\
            30 1 0:50 / /a\\040b\\134c rw - fuse.microvm /disk rw\n\
            31 1 0:50 / /bound rw - fuse.microvm /disk rw\n\
            30 1 0:51 / /other rw - tmpfs none rw\n\
            nonsense\n";
        let mut ours = Identity {
            device: (0, 50),
            number: 30,
            unique: 7,
        };
        assert_eq!(ours.paths(table), [Path::new("/a b\\c")]);
        ours.number = 0;
        assert_eq!(ours.paths(table).len(), 2);
        ours.device.1 = 5;
        assert!(ours.paths(table).is_empty());
    }

    #[test]
    fn escapes_that_are_none_stay() {
        for (word, path) in [
            ("\\", "\\"),
            ("\\04", "\\04"),
            ("\\999a", "\\999a"),
            ("", ""),
        ] {
            assert_eq!(unescaped(word.as_bytes()), Path::new(path));
        }
    }

    #[test]
    fn a_mount_that_is_there_is_at_its_path() {
        let found = Identity::of(Path::new("/proc")).unwrap().find().unwrap();
        assert_eq!(found, Place::At("/proc".into()));
        let gone = Identity {
            device: (u32::MAX, 0),
            number: 1,
            unique: 1,
        };
        assert_eq!(gone.find().unwrap(), Place::Nowhere);
    }
}
