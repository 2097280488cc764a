//! Opening a file as storage.
#![expect(unsafe_code, reason = "asks block devices by ioctl")]

use std::cell::OnceCell;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use super::FileStorage;
use super::ahead::Ahead;
use super::barrier::Barrier;
use super::direct::Direct;
use crate::Error;
use crate::storage::Geometry;
use crate::storage::lock::ImageLock;

/// How to open a [`FileStorage`].
#[derive(Clone, Debug)]
pub struct FileOptions {
    path: PathBuf,
    name: Option<PathBuf>,
    read_only: bool,
    direct: bool,
    share_all: bool,
    barrier_syscall: Option<u32>,
}

impl FileOptions {
    /// Opens the existing file at `path` for reading and writing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            name: None,
            read_only: false,
            direct: false,
            share_all: false,
            barrier_syscall: None,
        }
    }

    /// What it is called in messages once it is open, if not by its path.
    #[must_use]
    pub fn name(mut self, name: impl Into<PathBuf>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether to open it for reading only, which needs no permission to write, and which others
    /// may do as well.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether to leave out the host's page cache (`O_DIRECT`).
    #[must_use]
    pub fn direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Whether to take no locks, so that others may have the file open as they like. What is read
    /// then may be torn between two states, which suits nobody but who looks at a running image.
    #[must_use]
    pub fn share_all(mut self, share_all: bool) -> Self {
        self.share_all = share_all;
        self
    }

    /// The number of the host's system call `fdatabarrier`, which only `BarrierFS` kernels have. It
    /// is tried out when the file is opened: if the host refuses it, there is no barrier. If it is
    /// the number of another system call, that one is called with the file's descriptor.
    #[must_use]
    pub fn barrier_syscall(mut self, number: u32) -> Self {
        self.barrier_syscall = Some(number);
        self
    }

    /// Opens and locks the file. One that is in use is an error, after half a second in which its
    /// user did not let go.
    pub fn open(self) -> Result<FileStorage, Error> {
        // Asked before opening: to open a FIFO waits for its other end.
        let metadata = std::fs::metadata(&self.path).map_err(Error::io(&self.path, "open"))?;
        let is_block_device = self.check_kind(&metadata)?;
        let mut file = self.open_file()?;
        let lock = if self.share_all {
            ImageLock::none(&file, &self.path)?
        } else {
            ImageLock::acquire(&file, &self.path, !self.read_only)?
        };
        let size_bytes = file
            .seek(SeekFrom::End(0))
            .map_err(Error::io(&self.path, "find the size of"))?;
        let geometry = if is_block_device {
            device_geometry(&file, self.read_only)
                .map_err(Error::io(&self.path, "find the block size of"))?
        } else {
            file_geometry(&metadata, self.read_only)
        };
        let direct = self.direct.then(|| Direct::new(&file)).transpose();
        let direct = direct.map_err(|source| match source.kind() {
            io::ErrorKind::Unsupported => self.no_direct(),
            _ => Error::io(&self.path, "do direct I/O on")(source),
        })?;
        let storage = FileStorage {
            barrier: Barrier::probe(&file, self.barrier_syscall),
            ahead: Ahead::new(&file, is_block_device || self.read_only),
            file: Arc::new(file),
            path: self.name.unwrap_or(self.path),
            lock,
            geometry,
            is_block_device,
            direct,
            size_bytes: size_bytes.into(),
            cannot_punch_holes: false.into(),
            cannot_zero_ranges: false.into(),
            cannot_discard: false.into(),
            zeros: OnceCell::new(),
        };
        storage.check_alignment(size_bytes)?;
        Ok(storage)
    }

    /// Whether it is a block device; neither that nor a file is an error.
    fn check_kind(&self, metadata: &Metadata) -> Result<bool, Error> {
        let kind = metadata.file_type();
        let kind = match () {
            () if kind.is_file() => return Ok(false),
            () if kind.is_block_device() => return Ok(true),
            () if kind.is_dir() => "a directory",
            () if kind.is_char_device() => "a character device",
            () if kind.is_fifo() => "a FIFO",
            () if kind.is_socket() => "a socket",
            () => "a special file",
        };
        Err(Error::NotADisk {
            path: self.path.clone(),
            kind,
        })
    }

    fn no_direct(&self) -> Error {
        let problem = "the host cannot do direct I/O on it; leave out direct=on".to_owned();
        let path = self.path.clone();
        Error::Unsupported { path, problem }
    }

    fn open_file(&self) -> Result<File, Error> {
        let flags = if self.direct { libc::O_DIRECT } else { 0 };
        let opened = OpenOptions::new()
            .read(true)
            .write(!self.read_only)
            .custom_flags(flags)
            .open(&self.path);
        opened.map_err(|source| {
            let path = self.path.clone();
            let remedy = match source.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) if self.read_only => {
                    "reading it needs read permission"
                }
                Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                    "give it write permission, or only read it"
                }
                Some(libc::EINVAL) if self.direct => return self.no_direct(),
                _ => {
                    return Error::Io {
                        path,
                        operation: "open",
                        source,
                    };
                }
            };
            Error::Permission { path, remedy }
        })
    }
}

/// Guests expect 512-byte blocks of a file, whatever lies below it.
fn file_geometry(metadata: &Metadata, read_only: bool) -> Geometry {
    let block = u32::try_from(metadata.blksize()).unwrap_or(4096).max(512);
    Geometry {
        read_only,
        block_size_bytes: 512,
        physical_block_size_bytes: block,
        optimal_io_size_bytes: 0,
        discard_granularity_bytes: block,
    }
}

fn device_geometry(file: &File, read_only: bool) -> io::Result<Geometry> {
    // `_IO(0x12, n)` of `linux/fs.h`.
    const BLKIOOPT: libc::Ioctl = 0x1279;
    const BLKPBSZGET: libc::Ioctl = 0x127B;
    const BLKSSZGET: libc::Ioctl = 0x1268;
    let block = device_number(file, BLKSSZGET)?.max(512);
    let physical = device_number(file, BLKPBSZGET)?.max(block);
    Ok(Geometry {
        read_only,
        block_size_bytes: block,
        physical_block_size_bytes: physical,
        optimal_io_size_bytes: device_number(file, BLKIOOPT)?,
        discard_granularity_bytes: physical,
    })
}

fn device_number(file: &File, request: libc::Ioctl) -> io::Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: these requests write one int to their argument.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut number) } {
        0 => Ok(number),
        _ => Err(io::Error::last_os_error()),
    }
}
