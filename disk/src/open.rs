//! Opening an image file, with all that it stands on, as a disk.

mod chain;
mod layer;
mod name;
mod recognize;

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use chain::{CHAIN_MAX, Chain};
pub use layer::Layer;

use crate::flat::{Copying, Flat, Grow};
use crate::qcow2::Qcow2;
use crate::recorder::Recorder;
use crate::storage::DEADLINE;
use crate::{Disk, Error, FileOptions, FileStorage, Order};

/// The format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file's bytes are the disk's.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
    /// The disk's bytes in order, behind a bitmap of those that hide a base's.
    Flat,
}

impl Format {
    /// All of them, by name, for messages.
    pub const KNOWN: &'static str = "raw, qcow2, flat";
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "flat" => Ok(Self::Flat),
            _ => Err(Error::UnknownFormat {
                name: name.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Flat => "flat",
        })
    }
}

/// How to open an image file.
///
/// Without a format the image is raw. It is never guessed from the content, which in a raw image
/// the guest writes: a guest that wrote the header of another format could name any file of the
/// host as its backing file, and read it after the next start. A file that looks like another
/// format is refused instead, until its owner says what it is. The same holds for a backing file
/// whose format the image above it does not record.
///
/// Backing files are opened read-only, whatever the image is opened for.
///
/// What is far away is opened by its URL ([`is_remote`](crate::is_remote)), and only for reading. It
/// may stand only on what the same server has, and has no data file, so that it leads nobody to what
/// is no business of its server.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct OpenOptions {
    path: PathBuf,
    name: Option<PathBuf>,
    format: Option<Format>,
    read_only: bool,
    direct: bool,
    share_all: bool,
    data_file: Option<PathBuf>,
    snapshot: Option<String>,
    l2_cache_bytes: Option<u64>,
    order: Option<Order>,
    dedup_bytes: Option<u64>,
    copying: Copying,
    record_trace: Option<PathBuf>,
    barrier_syscall: Option<u32>,
    deadline: Duration,
    grow: Option<Arc<dyn Grow + Send + Sync>>,
    layers_max: usize,
    recognize: bool,
}

impl OpenOptions {
    /// Opens the existing file or block device at `path`, or what that is the URL of, for reading and
    /// writing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            name: None,
            format: None,
            read_only: false,
            direct: false,
            share_all: false,
            data_file: None,
            snapshot: None,
            l2_cache_bytes: None,
            order: None,
            dedup_bytes: None,
            copying: Copying::default(),
            record_trace: None,
            barrier_syscall: None,
            deadline: DEADLINE,
            grow: None,
            layers_max: usize::MAX,
            recognize: false,
        }
    }

    /// What the image is called in messages, as [`FileOptions::name`].
    #[must_use]
    pub fn name(mut self, name: impl Into<PathBuf>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether to open it for reading only. Several may, but not while another writes.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether to leave out the host's page cache (`O_DIRECT`), for every file of the image.
    #[must_use]
    pub fn direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Whether to take no locks, as [`FileOptions::share_all`].
    #[must_use]
    pub fn share_all(mut self, share_all: bool) -> Self {
        self.share_all = share_all;
        self
    }

    /// The format of the file.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// The external data file, in place of the one that the image names.
    #[must_use]
    pub fn data_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_file = Some(path.into());
        self
    }

    /// Opens an internal snapshot, by its ID or else by its name, in place of the disk as it is now.
    /// It is as large as the disk was then, and can only be read, whatever was asked for.
    #[must_use]
    pub fn snapshot(mut self, id_or_name: impl Into<String>) -> Self {
        self.snapshot = Some(id_or_name.into());
        self
    }

    /// The most memory for the metadata of the image and of each of its backing files, in bytes.
    #[must_use]
    pub fn l2_cache_bytes(mut self, bytes: u64) -> Self {
        self.l2_cache_bytes = Some(bytes);
        self
    }

    /// How metadata is kept in order with data. Without it, a journal where the format can have
    /// one. One that the image or the host cannot do is an error.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = Some(order);
        self
    }

    /// Stores data that is alike once, in qcow2 images: the memory, in bytes, to remember what is where.
    /// Other formats refuse it.
    #[must_use]
    pub fn dedup_bytes(mut self, bytes: u64) -> Self {
        self.dedup_bytes = Some(bytes);
        self
    }

    /// How the image copies from its base. Only flat images can.
    #[must_use]
    pub fn copying(mut self, copying: Copying) -> Self {
        self.copying = copying;
        self
    }

    /// Where to write a trace of what is read first, when the disk is closed. What is there must be
    /// a trace already, or nothing.
    #[must_use]
    pub fn record_trace(mut self, path: impl Into<PathBuf>) -> Self {
        self.record_trace = Some(path.into());
        self
    }

    /// The number of the host's system call `fdatabarrier`, as [`FileOptions::barrier_syscall`].
    #[must_use]
    pub fn barrier_syscall(mut self, number: u32) -> Self {
        self.barrier_syscall = Some(number);
        self
    }

    /// How long a read of what is far away waits for its server; 60 seconds, if nobody says so.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What makes the block device larger that a compact flat image is about to fill.
    #[must_use]
    pub fn grow(mut self, grow: Arc<dyn Grow + Send + Sync>) -> Self {
        self.grow = Some(grow);
        self
    }

    /// Opens at most so many files of the chain: with 1, the image without its backing file. What
    /// the files left out hold reads as zeros.
    #[must_use]
    pub fn layers_max(mut self, layers_max: usize) -> Self {
        self.layers_max = layers_max;
        self
    }

    /// Whether a file without a given format that looks like an image of ours is taken for one. It
    /// still is refused if it names a file that would be opened: a guest may have written that.
    #[must_use]
    pub fn recognize(mut self, recognize: bool) -> Self {
        self.recognize = recognize;
        self
    }

    /// Opens and locks the image. Runs on an [`Executor`](crate::Executor), as does the disk.
    pub async fn open(mut self) -> Result<Rc<dyn Disk>, Error> {
        let record_trace = self.record_trace.take();
        // What it takes to open an image is much, and is not needed afterwards.
        let disk = Box::pin(async { self.chain().await?.into_disk().await }).await?;
        match record_trace {
            Some(path) => Ok(Rc::new(Recorder::new(disk, &path)?)),
            None => Ok(disk),
        }
    }

    /// Opens and locks a qcow2 image. Runs on an [`Executor`](crate::Executor), as does the disk.
    pub async fn open_qcow2(self) -> Result<Rc<Qcow2<FileStorage>>, Error> {
        Box::pin(async { self.chain().await?.into_qcow2().await }).await
    }

    /// Opens and locks a flat image. Runs on an [`Executor`](crate::Executor), as does the disk.
    pub async fn open_flat(self) -> Result<Rc<Flat<FileStorage>>, Error> {
        self.chain().await?.into_flat().await
    }

    /// Opens and locks the files of the image, without a look at what is in them but the headers.
    /// Runs on an [`Executor`](crate::Executor).
    pub async fn chain(self) -> Result<Chain, Error> {
        Chain::open(self).await
    }

    /// Whether nothing may be written.
    fn is_read_only(&self) -> bool {
        self.read_only || self.snapshot.is_some()
    }

    /// How to open one of the files.
    fn file(&self, path: PathBuf, read_only: bool) -> FileOptions {
        let options = FileOptions::new(path)
            .read_only(read_only)
            .direct(self.direct)
            .share_all(self.share_all);
        match self.barrier_syscall {
            Some(number) => options.barrier_syscall(number),
            None => options,
        }
    }
}

#[cfg(test)]
mod tests;
