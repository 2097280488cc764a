//! Opening a cache.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf, absolute};
use std::rc::Rc;
use std::str::FromStr;

use super::blocks::Blocks;
use super::commit::Table;
use super::format::Stamp;
use super::home::{self, Home, Look};
use super::policy::{PolicyKind, policy};
use super::recover::{Found, recover};
use super::store::Store;
use super::{Cached, Shared};
use crate::latch::Latch;
use crate::range_locks::RangeLocks;
use crate::wait_queue::WaitQueue;
use crate::{
    CLASS_BLOCK_BYTES, Disk, Error, FileOptions, FileStorage, Statistics, Storage, is_remote,
};

/// The smallest cache.
pub const MIN_BYTES: u64 = 1 << 20;
/// The largest cache: what its index takes is in docs/cache.md.
pub const MAX_BYTES: u64 = 1 << 40;

/// When a write is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// When the disk has it.
    #[default]
    Through,
    /// When the cache has it. A flush makes it durable: in the cache file, or on the disk.
    Back,
}

impl FromStr for WriteMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "through" => Ok(Self::Through),
            "back" => Ok(Self::Back),
            _ => Err(Error::UnknownWriteMode {
                name: name.to_owned(),
            }),
        }
    }
}

/// How to put a cache in front of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    bytes: u64,
    file: Option<PathBuf>,
    mode: WriteMode,
    policy: PolicyKind,
    by_class: bool,
}

/// A disk to put a cache in front of.
pub(super) struct Behind {
    pub(super) disk: Rc<dyn Disk>,
    pub(super) path: PathBuf,
    pub(super) look: Look,
    /// What its file was like before it was opened, for that may have changed it.
    pub(super) before: Option<Stamp>,
}

impl CacheOptions {
    /// In memory, of so many bytes, which is cut to the limits.
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes: bytes.clamp(MIN_BYTES, MAX_BYTES),
            file: None,
            mode: WriteMode::default(),
            policy: PolicyKind::default(),
            by_class: true,
        }
    }

    /// In the file or block device at `path` instead. A file that is not there is made.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// When writes are done.
    #[must_use]
    pub fn write_mode(mut self, mode: WriteMode) -> Self {
        self.mode = mode;
        self
    }

    /// What leaves a full cache.
    #[must_use]
    pub fn policy(mut self, policy: PolicyKind) -> Self {
        self.policy = policy;
        self
    }

    /// Whether the class of blocks matters for that.
    #[must_use]
    pub fn by_class(mut self, by_class: bool) -> Self {
        self.by_class = by_class;
        self
    }

    /// Whether it matters to the cache what blocks are.
    pub fn asks_for_classes(&self) -> bool {
        self.by_class
    }

    /// Puts a cache in front of the disk at `path`, which `open_disk` opens. Runs on an
    /// [`Executor`](crate::Executor), as does the disk.
    ///
    /// A cache file that holds what another disk needs, or what the disk lacks though somebody else
    /// has changed it, is refused. One that is in use is so too.
    pub async fn open(
        &self,
        path: &Path,
        open_disk: impl AsyncFnOnce() -> Result<Rc<dyn Disk>, Error>,
    ) -> Result<Cached<FileStorage>, Error> {
        let storage = match &self.file {
            Some(file) => Some(open_file(file)?),
            None => None,
        };
        let look = home::look(path);
        let before = look();
        let behind = Behind {
            disk: open_disk().await?,
            path: path.to_owned(),
            look,
            before,
        };
        let disk = Rc::clone(&behind.disk);
        let opened = match storage {
            Some(storage) => self.open_on(behind, storage).await,
            None => Ok(self.open_in_memory(behind)),
        };
        if opened.is_err() {
            // Nobody has written anything yet.
            let _ = disk.close().await;
        }
        opened
    }

    /// Of so many blocks, which may be fewer than users can ask for.
    #[cfg(test)]
    pub(super) fn of_slots(slots: u64) -> Self {
        let bytes = slots * CLASS_BLOCK_BYTES;
        Self {
            bytes,
            ..Self::new(bytes)
        }
    }

    /// How many slots it has in front of a disk: no more than that has blocks.
    fn slots(&self, disk_bytes: u64) -> u32 {
        let blocks = disk_bytes.div_ceil(CLASS_BLOCK_BYTES).max(16);
        let slots = (self.bytes / CLASS_BLOCK_BYTES).min(blocks);
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    fn blocks(&self, slots: u32) -> Blocks {
        Blocks::new(slots, policy(self.policy, slots, self.by_class))
    }

    pub(super) fn open_in_memory<S: Storage>(&self, behind: Behind) -> Cached<S> {
        let slots = self.slots(behind.disk.properties().size_bytes);
        self.start(behind, Store::memory(slots), self.blocks(slots), None)
    }

    /// With its slots in `storage`.
    pub(super) async fn open_on<S: Storage>(
        &self,
        behind: Behind,
        storage: S,
    ) -> Result<Cached<S>, Error> {
        let slots = self.slots(behind.disk.properties().size_bytes);
        let Found { header, blocks } =
            recover(&storage, slots, &behind, || self.blocks(slots)).await?;
        let table = Table::new(storage.path().to_owned(), header);
        let store = Store::file(storage, slots);
        let cached = self.start(behind, store, blocks, Some(table));
        cached.shared.settle().await?;
        Ok(cached)
    }

    fn start<S: Storage>(
        &self,
        behind: Behind,
        store: Store<S>,
        blocks: Blocks,
        table: Option<Table>,
    ) -> Cached<S> {
        let properties = behind.disk.properties();
        let shared = Rc::new(Shared {
            properties,
            home: Home::new(behind.disk, behind.path, behind.look),
            store,
            blocks: RefCell::new(blocks),
            locks: RangeLocks::default(),
            mode: self.mode,
            table,
            slots: self.slots(properties.size_bytes),
            statistics: RefCell::new(Statistics::default()),
            fills: Cell::new(0),
            filled: WaitQueue::default(),
            writing_back: RangeLocks::default(),
            work: WaitQueue::default(),
            pressure: WaitQueue::default(),
            writes: Cell::new(0),
            is_closing: Latch::default(),
        });
        if !properties.read_only {
            shared.watch();
        }
        Cached { shared }
    }
}

/// Opens a cache file, and makes it if it is not there.
fn open_file(path: &Path) -> Result<FileStorage, Error> {
    if is_remote(path) {
        return Err(Error::NotADisk {
            path: path.to_owned(),
            kind: "a URL",
        });
    }
    let mut options = std::fs::File::options();
    match options.write(true).create_new(true).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io(path, "make the cache file")(error)),
    }
    FileOptions::new(path).open()
}

/// What a disk is called wherever the program runs.
pub(super) fn path_bytes(path: &Path) -> Vec<u8> {
    let whole = if is_remote(path) {
        path.to_owned()
    } else {
        absolute(path).unwrap_or_else(|_| path.to_owned())
    };
    whole.as_os_str().as_bytes().to_vec()
}
