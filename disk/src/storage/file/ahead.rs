//! Zeros written ahead of data, and where they help.
#![expect(unsafe_code, reason = "std has no statfs")]

use std::cell::OnceCell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt};
use std::sync::Arc;

/// How zeros are written ahead to a file: past the page cache, so that the next sync of a guest
/// has not to wait for them.
pub(super) struct Ahead {
    helps: bool,
    /// A descriptor of the file with `O_DIRECT`, made when first needed.
    direct: OnceCell<Arc<File>>,
}

impl Ahead {
    /// For `file`, if it is `fixed` for one that nobody makes larger.
    pub(super) fn new(file: &File, fixed: bool) -> Self {
        Self {
            helps: !fixed && helps(file),
            direct: OnceCell::new(),
        }
    }

    pub(super) fn helps(&self) -> bool {
        self.helps
    }

    /// The descriptor for zeros.
    pub(super) fn file(&self, file: &File) -> io::Result<Arc<File>> {
        if let Some(direct) = self.direct.get() {
            return Ok(Arc::clone(direct));
        }
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut options = OpenOptions::new();
        let direct = options.write(true).custom_flags(libc::O_DIRECT).open(again);
        let direct = Arc::new(direct?);
        Ok(Arc::clone(self.direct.get_or_init(|| direct)))
    }
}

/// Whether a write and a sync take less time where zeros are already.
///
/// Medians of `examples/growth.rs` on Linux 6.18, in microseconds for a write of 4 KiB to a new
/// cluster and `fdatasync`, on a machine that was busy with other things; the first four in a loop
/// mount on the last:
///
/// | | nothing | size only | `fallocate` | zeros, buffered | zeros, `O_DIRECT` |
/// | --- | --- | --- | --- | --- | --- |
/// | ext4 | 12,517 | 16,096 | 16,683 | 3,890 | 3,467 |
/// | XFS | 1,167 | 1,195 | 1,191 | 439 | 473 |
/// | Btrfs | 5,467 | 5,603 | 5,978 | 5,510 | 3,938 |
/// | tmpfs | 8 | 8 | 7 | 2 | 2 |
/// | ext4 without a journal | 383 | 408 | 357 | 176 | 172 |
///
/// Extents that `fallocate` makes are converted by the first write, which is a transaction of its
/// own: no better than nothing. Btrfs writes everything to a new place. `FALLOC_FL_WRITE_ZEROES`
/// was refused everywhere. Without a journal, what zeros cost in the device's time was as much as they
/// saved: with 64 KiB of them for each 4 KiB, 1,200 to 1,900 flushes a second came of 1,600 to 1,900.
/// There, nothing is written ahead. With the time of the zeros in it, 64 KiB for each write, `O_DIRECT` takes
/// less than buffered zeros, for which the next sync waits: 5,871 and 7,390 on ext4, 2,073 and 4,894
/// on XFS, 1,407 and 1,882 on ext4 without a journal.
fn helps(file: &File) -> bool {
    let mut found = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the call fills the structure, or fails.
    if unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call has filled it.
    let kind = unsafe { found.assume_init() }.f_type;
    match kind {
        libc::EXT4_SUPER_MAGIC => has_journal(file),
        kind => kind == libc::XFS_SUPER_MAGIC,
    }
}

/// Whether the ext4 that a file is on has a journal: then there is a folder of its own for it.
fn has_journal(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else {
        return true;
    };
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let device = fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let name = device
        .ok()
        .and_then(|path| Some(path.file_name()?.to_owned()));
    let (Some(name), Ok(journals)) = (name, fs::read_dir("/proc/fs/jbd2")) else {
        // Most have one.
        return true;
    };
    let prefix = [name.as_bytes(), b"-"].concat();
    let mut names = journals.flatten().map(|journal| journal.file_name());
    names.any(|journal| journal.as_bytes().starts_with(&prefix))
}

/// How much the file system of a file has to spare for us, in bytes; 0 if it does not say.
pub(super) fn spare_bytes(file: &File) -> u64 {
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the call fills the structure, or fails.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return 0;
    }
    // SAFETY: the call has filled it.
    let found = unsafe { found.assume_init() };
    found.f_bavail.saturating_mul(found.f_frsize)
}
