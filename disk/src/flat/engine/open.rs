//! Opening.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::Flat;
use super::copy::Copying;
use super::growth::Growth;
use super::image::Image;
use super::pace::Pace;
use crate::commits::Commits;
use crate::flat::bitmap::Bitmap;
use crate::flat::format::Header;
use crate::flat::grow::Grow;
use crate::flat::snapshots::Snapshots;
use crate::flat::table::Table;
use crate::flat::{journal, read_header};
use crate::flush::Flusher;
use crate::latch::Latch;
use crate::range_locks::RangeLocks;
use crate::{Disk, Error, JournalStatistics, Order, Statistics, Storage};

/// What an image needs beside its own file.
#[derive(Default)]
pub struct Parts {
    /// The base, if the image names one. What comes from one that is not given is zeros.
    pub base: Option<Rc<dyn Disk>>,
    /// How the bitmap is kept in order with data; absent: by a journal.
    pub order: Option<Order>,
    /// How to copy from the base.
    pub copying: Copying,
    /// What makes the block device larger that a compact image is about to fill.
    pub grow: Option<Rc<dyn Grow>>,
    /// The snapshot to read in place of the disk as it is now, by its number or its name.
    pub snapshot: Option<String>,
    /// What measures how long recovery takes, and requests while something is copied; absent:
    /// nothing does, but the virtual clock of a simulation.
    pub clock: Option<fn() -> Instant>,
}

impl<S: Storage> Flat<S> {
    /// Opens the image in `storage`, read-only if that is. A writable image that was not closed is
    /// recovered first.
    pub async fn open(storage: S, parts: Parts) -> Result<Self, Error> {
        let read_only = storage.geometry().read_only;
        let recovered = if read_only {
            None
        } else {
            let begun = parts.clock.map(|now| (now, now()));
            let report = journal::recover(&storage).await?;
            let took = begun.map_or(Duration::ZERO, |(now, begun)| now() - begun);
            report.map(|report| (report, took))
        };
        let header = read_header(&storage).await?;
        if header.journal_identity.is_some() {
            return Err(crate::journal::unclosed(&storage));
        }
        if let Some(base) = &parts.base {
            let size_bytes = base.properties().size_bytes;
            check_base_size(storage.path(), &header, size_bytes)?;
        }
        if parts.order == Some(Order::Barrier) && !read_only && !storage.has_barrier() {
            // It says why.
            storage.barrier().await?;
        }
        let grow = parts.grow.clone().filter(|_| !read_only);
        if grow.is_some() && (header.chunks.is_none() || storage.can_resize()) {
            return Err(Error::Unsupported {
                path: storage.path().to_owned(),
                problem: "is not a compact image on a block device, which alone is made larger"
                    .to_owned(),
            });
        }
        let snapshots = Snapshots::read(&storage, &header).await?;
        let header = match &parts.snapshot {
            Some(id_or_name) => snapshots.view(&storage, &header, id_or_name).await?,
            None => header,
        };
        let bitmap = Bitmap::read(&storage, &header).await?;
        let table = Table::read(&storage, &header, &snapshots).await?;
        let prefetch = parts.copying.prefetch.clone().filter(|_| !read_only);
        let image = Rc::new_cyclic(|image| {
            let growth = Growth::new(grow, Weak::clone(image));
            Image::new(storage, header, (bitmap, table, snapshots), growth, parts)
        });
        if let Some((report, took)) = recovered {
            let statistics = report.note(image.storage.path(), took);
            image.past_journals.set(statistics);
        }
        if let Some(prefetch) = prefetch {
            image.start_prefetch(prefetch);
        }
        Ok(Self { image })
    }
}

/// Refuses a base that is not what the image was made on: what comes from it would be something
/// else.
pub(crate) fn check_base_size(path: &Path, header: &Header, size_bytes: u64) -> Result<(), Error> {
    let Some(name) = header
        .base
        .as_ref()
        .filter(|_| size_bytes != header.base_bytes)
    else {
        return Ok(());
    };
    Err(Error::Unsupported {
        path: path.to_owned(),
        problem: format!(
            "its base '{}' has changed: it has {size_bytes} bytes, and had {}; \
             bring the old one back, or take this one with image rebase -u",
            name.name, header.base_bytes
        ),
    })
}

impl<S: Storage> Image<S> {
    fn new(
        storage: S,
        header: Header,
        (bitmap, table, snapshots): (Bitmap, Option<Table>, Snapshots),
        growth: Growth<S>,
        parts: Parts,
    ) -> Self {
        let order = parts.order.unwrap_or_default();
        let read_only = storage.geometry().read_only;
        Self {
            storage,
            base: RefCell::new(parts.base),
            header: RefCell::new(header),
            bitmap: RefCell::new(bitmap),
            table: RefCell::new(table),
            snapshots: RefCell::new(snapshots.list),
            order: Cell::new(order),
            needs_journal: parts.order == Some(Order::Journal),
            journal: RefCell::default(),
            unfinished: RefCell::default(),
            commits: Commits::default(),
            past_journals: Cell::new(JournalStatistics::default()),
            blocks: RangeLocks::default(),
            changes: RangeLocks::default(),
            allocating: RangeLocks::default(),
            growth,
            preparing: RangeLocks::default(),
            flusher: Flusher::new(read_only, order == Order::Unsafe),
            copies: Cell::new(parts.copying.on_read && !read_only),
            recorded_bytes: Cell::default(),
            pace: Pace::new(parts.clock),
            is_prepared: Cell::default(),
            is_closing: Latch::default(),
            is_closed: Cell::default(),
            statistics: RefCell::new(Statistics::default()),
        }
    }
}
