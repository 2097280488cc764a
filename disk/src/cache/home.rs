//! The disk that a cache is in front of: where all its blocks come home to.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::format::Stamp;
use crate::{Buffers, Disk, Error, Request};

/// Tells what the file of a disk is like, as long as nobody can have changed it unseen.
pub type Look = Rc<dyn Fn() -> Option<Stamp>>;

/// The disk, what changes of it are durable, and how to know it again.
pub(super) struct Home {
    pub(super) disk: Rc<dyn Disk>,
    path: RefCell<PathBuf>,
    look: RefCell<Look>,
    /// Counts changes, when they complete. The first is what somebody else left in the host's cache.
    changes: Cell<u64>,
    durable: Cell<u64>,
    /// The last change that a guest's flush must make durable: what is brought home is durable
    /// where it was before.
    owed: Cell<u64>,
}

impl Home {
    pub(super) fn new(disk: Rc<dyn Disk>, path: PathBuf, look: Look) -> Self {
        let changes = u64::from(!disk.properties().read_only);
        Self {
            disk,
            path: RefCell::new(path),
            look: RefCell::new(look),
            changes: Cell::new(changes),
            durable: Cell::new(0),
            owed: Cell::new(changes),
        }
    }

    /// What it is called in messages.
    pub(super) fn path(&self) -> PathBuf {
        self.path.borrow().clone()
    }

    /// What its file is like now.
    pub(super) fn look(&self) -> Option<Stamp> {
        let look = Rc::clone(&self.look.borrow());
        look()
    }

    /// It is in another file from now on.
    pub(super) fn moved(&self, path: PathBuf, look: Look) {
        self.path.replace(path);
        self.look.replace(look);
    }

    /// A change has completed; its number.
    pub(super) fn changed(&self) -> u64 {
        self.changes.set(self.changes.get() + 1);
        self.changes.get()
    }

    /// As [`Home::changed`], for a change that is durable nowhere else.
    pub(super) fn changed_alone(&self) -> u64 {
        self.owed.set(self.changed());
        self.owed.get()
    }

    /// The last change so far that is durable nowhere else, if it is that at all.
    pub(super) fn owed(&self) -> u64 {
        self.owed.get()
    }

    /// Makes the changes durable up to this one.
    pub(super) async fn flush_to(&self, change: u64) -> Result<(), Error> {
        if self.is_durable(change) {
            return Ok(());
        }
        self.flush().await
    }

    pub(super) fn is_durable(&self, change: u64) -> bool {
        self.durable.get() >= change
    }

    /// Makes the changes durable that are complete.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        let covered = self.changes.get();
        if self.is_durable(covered) {
            return Ok(());
        }
        self.disk.submit(Request::flush()).await?;
        self.durable.set(self.durable.get().max(covered));
        Ok(())
    }

    pub(super) async fn read(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        self.disk.submit(Request::read(offset, buffers)).await
    }
}

/// Looks at a regular file. Of anything else it is not known when it was changed.
pub(super) fn look(path: &Path) -> Look {
    let path = path.to_owned();
    Rc::new(move || look_at(&path))
}

fn look_at(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = std::fs::metadata(path).ok()?;
    let changed_ns = metadata
        .mtime()
        .checked_mul(1_000_000_000)?
        .checked_add(metadata.mtime_nsec())?;
    metadata.is_file().then_some(Stamp {
        inode: metadata.ino(),
        size_bytes: metadata.size(),
        changed_ns: u64::try_from(changed_ns).ok()?,
    })
}
