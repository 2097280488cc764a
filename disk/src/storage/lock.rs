//! Locks that keep two programs from writing one image, the same as QEMU's.
//!
//! QEMU (`block/file-posix.c`) stands for each permission by two bytes of the file, far from
//! meaning anything as content: a shared lock on the first says "I do this", one on the second
//! says "nobody else may". Whoever holds its own locks then looks whether somebody's "nobody may"
//! meets its "I do", or the other way round. The locks are open file description locks, which
//! belong to the open file and go with it.
#![expect(unsafe_code, reason = "std has no byte-range locks")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// A lock on byte `DOES + n` says that its owner uses permission `n`.
const DOES: i64 = 100;
/// A lock on byte `DENIES + n` says that its owner lets no other use permission `n`.
const DENIES: i64 = 200;

/// QEMU's permissions (`BLK_PERM_*`), by the number of their bit.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// What each of them is in a message: what the other does, what the other denies.
const CONFLICTS: [(i64, &str, &str); 3] = [
    (CONSISTENT_READ, "reads it", "lets nobody read it"),
    (WRITE, "writes to it", "lets nobody write to it"),
    (RESIZE, "resizes it", "lets nobody resize it"),
];

/// How long we wait for others to let go, and how often we look. The locks of a program that was
/// killed stay until the kernel has ended what it had in flight, which `io_uring` does after the
/// end of the process: until then it may still write to the image.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The locks on an image. They go with the file, or by [`ImageLock::release`].
pub(super) struct ImageLock {
    file: File,
}

impl ImageLock {
    /// Locks an open file against others who would write to it; if `write`, also against those who
    /// want it unchanged. Waits a moment for one that has just ended.
    pub(super) fn acquire(file: &File, path: &Path, write: bool) -> Result<Self, Error> {
        let start = Instant::now();
        Self::acquire_while(file, path, write, || {
            thread::sleep(LOOK_INTERVAL);
            start.elapsed() < PATIENCE
        })
    }

    /// No locks, for who takes what is read as it comes.
    pub(super) fn none(file: &File, path: &Path) -> Result<Self, Error> {
        let file = file.try_clone().map_err(Error::io(path, "open"))?;
        Ok(Self { file })
    }

    /// Tries again when others are in the way, for as long as `again` says so.
    fn acquire_while(
        file: &File,
        path: &Path,
        write: bool,
        mut again: impl FnMut() -> bool,
    ) -> Result<Self, Error> {
        loop {
            match Self::try_acquire(file, path, write) {
                Err(Error::InUse { .. }) if again() => {}
                done => return done,
            }
        }
    }

    fn try_acquire(file: &File, path: &Path, write: bool) -> Result<Self, Error> {
        let file = file.try_clone().map_err(Error::io(path, "lock"))?;
        let does: &[i64] = if write {
            &[CONSISTENT_READ, WRITE]
        } else {
            &[CONSISTENT_READ]
        };
        let denies = [WRITE, RESIZE];
        let ours = does
            .iter()
            .map(|p| DOES + p)
            .chain(denies.iter().map(|p| DENIES + p));
        let lock = Self { file };
        for byte in ours {
            set(&lock.file, libc::F_RDLCK, byte, 1).map_err(Error::io(path, "lock"))?;
        }
        for (permission, others_do, others_deny) in CONFLICTS {
            let against = [
                (denies.contains(&permission), DOES + permission, others_do),
                (does.contains(&permission), DENIES + permission, others_deny),
            ];
            for (matters, byte, holder) in against {
                if matters && is_locked(&lock.file, byte).map_err(Error::io(path, "lock"))? {
                    // The file stays open, and others are not to stumble over our attempt.
                    lock.release();
                    return Err(Error::InUse {
                        path: path.to_owned(),
                        holder,
                    });
                }
            }
        }
        Ok(lock)
    }

    /// Gives the locks back at once, though operations may still keep the file open.
    pub(super) fn release(&self) {
        // Should it fail, closing the file does it.
        let _ = set(&self.file, libc::F_UNLCK, DOES, DENIES - DOES + 64);
    }
}

fn flock(kind: libc::c_int, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).expect("lock kinds are small"),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("0"),
        l_start: start,
        l_len: len,
        // Must be 0 for open file description locks.
        l_pid: 0,
    }
}

fn set(file: &File, kind: libc::c_int, start: i64, len: i64) -> io::Result<()> {
    let lock = flock(kind, start, len);
    // SAFETY: F_OFD_SETLK reads a `flock`.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether another open file has any lock on a byte.
fn is_locked(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = flock(libc::F_WRLCK, byte, 1);
    // SAFETY: F_OFD_GETLK reads and writes a `flock`.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_others_to_let_go_and_keeps_nothing_meanwhile() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(named.path());
        let (theirs, ours) = (open().unwrap(), open().unwrap());
        let mut holder = Some(ImageLock::try_acquire(&theirs, named.path(), true).unwrap());
        let mut looks = 0;
        let locked = ImageLock::acquire_while(&ours, named.path(), true, || {
            looks += 1;
            assert!(!is_locked(&theirs, DOES + WRITE).unwrap());
            if looks == 3 {
                holder.take().unwrap().release();
            }
            true
        });
        locked.unwrap();
        assert_eq!(looks, 3);
        assert!(is_locked(&theirs, DOES + WRITE).unwrap());
    }
}
