//! What the host can do for disks: for a program that tells its user before anything fails.
#![expect(unsafe_code, reason = "std has no fallocate")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Error;
use crate::reactor::uring_features;
use crate::storage::direct_alignment;

/// The unit of writes that are timed.
const BLOCK_BYTES: usize = 4096;
/// Syncs timed: enough for a median, few enough for a slow disk.
const SYNCS: usize = 15;

/// Whether `io_uring` is there, allowed and recent enough: the mode in which we would use it, or
/// what is wrong.
pub fn io_uring() -> Result<&'static str, Error> {
    uring_features().map_err(Error::setup("io_uring"))
}

/// What a file system can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystemReport {
    /// Whether space can be reserved before it is written (`fallocate`).
    pub fallocate: bool,
    /// Whether a range can give its space back: without it, discards do nothing.
    pub punch_hole: bool,
    /// Whether a range can be zeroed in its place: without it, zeros are written.
    pub zero_range: bool,
    /// What `O_DIRECT` needs, if there is such a thing.
    pub direct: Option<DirectAlignment>,
    /// How long a 4 KiB write takes to become durable (`fdatasync`), the median.
    pub fdatasync: Duration,
}

/// The alignments that direct I/O needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Of memory addresses.
    pub memory_bytes: u32,
    /// Of offsets and lengths.
    pub offset_bytes: u32,
}

/// Tries out the file system that holds `path`, a directory or a file that need not exist, with a
/// file of its own that has no name. Takes as long as some ten syncs.
pub fn file_system(path: &Path) -> Result<FileSystemReport, Error> {
    let directory = directory_of(path);
    let try_out = || {
        let file = nameless_file(&directory)?;
        file.write_all_at(&[1; 4 * BLOCK_BYTES], 0)?;
        Ok(FileSystemReport {
            fallocate: can_allocate(&file, 0),
            punch_hole: can_allocate(&file, libc::FALLOC_FL_PUNCH_HOLE),
            zero_range: can_allocate(&file, libc::FALLOC_FL_ZERO_RANGE),
            direct: direct(&file).ok(),
            fdatasync: time_fdatasync(&file)?,
        })
    };
    try_out().map_err(Error::io(&directory, "try out a temporary file in"))
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        _ if path.is_dir() => path.to_owned(),
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A file that goes with its descriptor.
fn nameless_file(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options
        .clone()
        .custom_flags(libc::O_TMPFILE)
        .open(directory)
    {
        // Not all file systems can; NFS for one.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let path = directory.join(format!(".disk-probe-{}", std::process::id()));
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        opened => opened,
    }
}

fn can_allocate(file: &File, mode: libc::c_int) -> bool {
    let len = libc::off_t::try_from(BLOCK_BYTES).expect("small");
    // SAFETY: takes no pointers.
    unsafe { libc::fallocate(file.as_raw_fd(), mode | libc::FALLOC_FL_KEEP_SIZE, len, len) == 0 }
}

fn direct(file: &File) -> io::Result<DirectAlignment> {
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(again)?;
    let (memory_bytes, offset_bytes) = direct_alignment(&file)?;
    Ok(DirectAlignment {
        memory_bytes,
        offset_bytes,
    })
}

fn time_fdatasync(file: &File) -> io::Result<Duration> {
    let mut times = Vec::with_capacity(SYNCS);
    for n in 0..SYNCS {
        file.write_all_at(&[n.to_le_bytes()[0]; BLOCK_BYTES], 0)?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[SYNCS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_agrees_with_what_works() {
        let directory = tempfile::tempdir().unwrap();
        let report = file_system(&directory.path().join("missing.img")).unwrap();
        println!("{report:?}");
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            0,
            "a file was left"
        );
        assert_eq!(
            file_system(directory.path()).unwrap().punch_hole,
            report.punch_hole
        );
        let image = directory.path().join("disk.img");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let direct = crate::FileOptions::new(&image).direct(true).open();
        assert_eq!(direct.is_ok(), report.direct.is_some());
    }

    #[test]
    fn missing_directory_is_named() {
        let message = file_system(Path::new("/nowhere/at/all.img"))
            .unwrap_err()
            .to_string();
        assert!(message.starts_with("/nowhere/at: "), "{message}");
    }
}
