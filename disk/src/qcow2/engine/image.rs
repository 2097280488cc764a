//! An open image: what all its requests share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::committer::Committer;
use super::decompressed::Decompressed;
use super::dedup::Dedup;
use super::free_space::FreeSpace;
use super::journaled::JournalState;
use super::metadata::Metadata;
use super::open::Parts;
use crate::flush::Flusher;
use crate::growth::Growth;
use crate::qcow2::file;
use crate::qcow2::format::{
    AutoclearFeatures, Header, IncompatibleFeatures, L1_BYTES_MAX, L1Entry, Layout, SnapshotEntry,
    TABLE_CLUSTERS_MAX,
};
use crate::qcow2::snapshot;
use crate::range_locks::RangeLocks;
use crate::{Disk, Error, JournalStatistics, Order, Statistics, Storage};

/// The L2 cache covers this much of a disk, unless that takes more than [`L2_CACHE_BYTES_MAX`].
const L2_CACHE_COVERAGE_BYTES: u64 = 64 << 30;
/// What the L2 cache takes by default at most: with small clusters the tables are large.
const L2_CACHE_BYTES_MAX: u64 = 64 << 20;
/// What the other tables get of the cache: as much as the L2 tables, but not more than this.
const OTHER_CACHE_BYTES: u64 = 1 << 20;

/// A qcow2 image in use.
pub(super) struct Image<S> {
    pub(super) storage: S,
    pub(super) data_file: Option<S>,
    pub(super) backing: Option<Rc<dyn Disk>>,
    /// How metadata is kept in order with data.
    pub(super) order: Cell<Order>,
    /// Whether an image that cannot have a journal is refused.
    pub(super) needs_journal: bool,
    /// The size of the journal, if not the usual one.
    pub(super) journal_bytes: Option<u64>,
    pub(super) journaled: JournalState,
    /// What journals have done that are over.
    pub(super) past_journals: Cell<JournalStatistics>,
    /// With the L1 table and the size of the disk that is read, which may be a snapshot's.
    pub(super) header: RefCell<Header>,
    pub(super) metadata: Metadata,
    pub(super) free_space: FreeSpace,
    pub(super) growth: Growth,
    /// Requests hold the guest clusters that they touch: exclusively while they change how those
    /// are mapped.
    pub(super) guest: RangeLocks,
    /// Whoever changes anything shares it, until that is over, whether or not its sender waits.
    pub(super) changes: RangeLocks,
    /// Held while an L2 table is made.
    pub(super) tables: RangeLocks,
    /// The clusters that are metadata, and of what kind. Data there means that the image is damaged.
    pub(super) kinds: RefCell<HashMap<u64, Kind, RandomState>>,
    pub(super) flusher: Flusher,
    pub(super) data_flusher: Flusher,
    pub(super) committer: Committer,
    pub(super) decompressed: Decompressed,
    /// What finds data that is alike, if that is stored once.
    pub(super) dedup: Option<Box<Dedup>>,
    /// Whether a cluster may have lost all but one of those that shared it, which says still that it
    /// must not be overwritten.
    pub(super) is_unsettled: Cell<bool>,
    /// What was found to be wrong while running. Nothing is written from then on.
    pub(super) damage: RefCell<Option<(u64, String)>>,
    /// Whether what must precede the first write is done.
    pub(super) is_prepared: Cell<bool>,
    /// Whether the file may be another's.
    pub(super) is_closed: Cell<bool>,
    pub(super) statistics: RefCell<Statistics>,
}

/// Something in the image that cannot be.
pub(super) struct Flaw {
    /// Where in the file.
    pub(super) offset: u64,
    pub(super) problem: String,
}

/// What a cluster of metadata is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Header,
    L1Table,
    L2Table,
    RefcountTable,
    RefcountBlock,
    SnapshotTable,
    BitmapDirectory,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Header => "the header",
            Self::L1Table => "an L1 table",
            Self::L2Table => "an L2 table",
            Self::RefcountTable => "the refcount table",
            Self::RefcountBlock => "a refcount block",
            Self::SnapshotTable => "the snapshot table",
            Self::BitmapDirectory => "the bitmap directory",
        }
    }
}

impl<S: Storage> Image<S> {
    /// An image whose header was read, and nothing else yet.
    pub(super) fn new(storage: S, header: Header, parts: Parts<S>) -> Self {
        let Parts {
            backing,
            data_file,
            snapshot: _,
            l2_cache_bytes,
            order,
            dedup,
            journal_bytes,
            clock: _,
        } = parts;
        let needs_journal = order == Some(Order::Journal) || dedup.is_some();
        let order = order.unwrap_or_default();
        let layout = header.layout;
        let cache_bytes = l2_cache_bytes.unwrap_or_else(|| default_l2_cache_bytes(&header));
        let read_only = storage.geometry().read_only;
        let file_clusters = layout.clusters_for(storage.size_bytes());
        let file_end = file_clusters << layout.cluster_bits;
        Self {
            free_space: FreeSpace::new(file_clusters),
            growth: Growth::new(&storage, file_end, layout.cluster_bytes()),
            metadata: Metadata::new(
                layout.cluster_bytes(),
                cache_bytes.saturating_add(cache_bytes.min(OTHER_CACHE_BYTES)),
            ),
            storage,
            data_file,
            backing,
            order: Cell::new(order),
            needs_journal,
            journal_bytes,
            journaled: JournalState::default(),
            past_journals: Cell::default(),
            header: RefCell::new(header),
            guest: RangeLocks::default(),
            changes: RangeLocks::default(),
            tables: RangeLocks::default(),
            kinds: RefCell::default(),
            flusher: Flusher::new(read_only, order == Order::Unsafe),
            data_flusher: Flusher::new(read_only, order == Order::Unsafe),
            committer: Committer::default(),
            decompressed: Decompressed::default(),
            dedup: dedup.map(|options| Box::new(Dedup::new(&options))),
            is_unsettled: Cell::default(),
            damage: RefCell::default(),
            is_prepared: Cell::default(),
            is_closed: Cell::default(),
            statistics: RefCell::default(),
        }
    }

    pub(super) fn layout(&self) -> Layout {
        self.header.borrow().layout
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.header.borrow().size_bytes
    }

    pub(super) fn version(&self) -> u32 {
        self.header.borrow().version
    }

    /// Where guest data is.
    pub(super) fn data_storage(&self) -> &S {
        self.data_file.as_ref().unwrap_or(&self.storage)
    }

    /// Notes that guest data has been written.
    pub(super) fn data_changed(&self) {
        match self.data_file {
            Some(_) => self.data_flusher.changed(),
            None => self.flusher.changed(),
        }
    }

    /// Where the host clusters end, that there are.
    pub(super) fn host_end(&self) -> u64 {
        let allocated = self.free_space.end() << self.layout().cluster_bits;
        self.storage.size_bytes().max(allocated)
    }

    /// Learns which clusters are metadata; finds tables that overlap or are not in the file.
    /// `header` is the file's, whose disk may be another than this one.
    pub(super) async fn learn_kinds(&self, header: &Header) -> Result<(), Error> {
        self.add_kind(Kind::Header, 0, header.layout.cluster_bytes())
            .await?;
        self.add_kind(Kind::L1Table, header.l1_offset, header.l1_bytes())
            .await?;
        let table = header.refcount_table_offset;
        self.add_kind(Kind::RefcountTable, table, header.refcount_table_bytes())
            .await?;
        self.learn_snapshots(header).await?;
        if let Some(bitmaps) = header.bitmaps
            && header.autoclear.0 & AutoclearFeatures::BITMAPS != 0
        {
            let (offset, bytes) = (bitmaps.directory_offset, bitmaps.directory_bytes);
            self.add_kind(Kind::BitmapDirectory, offset, bytes).await?;
        }
        self.learn_entries(table, header.refcount_table_bytes(), Kind::RefcountBlock)
            .await?;
        let (offset, bytes) = {
            let disk = self.header.borrow();
            (disk.l1_offset, disk.l1_bytes())
        };
        self.learn_entries(offset, bytes, Kind::L2Table).await
    }

    async fn learn_snapshots(&self, header: &Header) -> Result<(), Error> {
        let (snapshots, bytes) = snapshot::read_table(&self.storage, header).await?;
        self.add_kind(Kind::SnapshotTable, header.snapshots_offset, bytes)
            .await?;
        let layout = header.layout;
        let clusters = |snapshot: &SnapshotEntry| layout.clusters_for(snapshot.l1_bytes());
        if snapshots.iter().map(clusters).sum::<u64>() > TABLE_CLUSTERS_MAX {
            let problem = "has more and larger snapshots than can be kept track of".to_owned();
            let path = self.storage.path().to_owned();
            return Err(Error::Unsupported { path, problem });
        }
        for snapshot in snapshots {
            let (offset, bytes) = (snapshot.l1_offset, snapshot.l1_bytes());
            if bytes > L1_BYTES_MAX {
                let problem = "a snapshot's L1 table is larger than 32 MiB".to_owned();
                self.refuse_table(offset, problem).await?;
                continue;
            }
            self.add_kind(Kind::L1Table, offset, bytes).await?;
        }
        Ok(())
    }

    /// Learns the clusters that the entries of a table point to.
    async fn learn_entries(&self, table: u64, bytes: u64, kind: Kind) -> Result<(), Error> {
        let mut at = table;
        while at < table + bytes {
            let page = self.metadata.page(&self.storage, at).await?;
            let end = page.end().min(table + bytes);
            for offset in (at..end).step_by(8) {
                let entry = page.word(offset);
                let target = match kind {
                    Kind::L2Table => L1Entry(entry).table_offset(),
                    _ => (entry != 0).then_some(entry),
                };
                if let Some(target) = target {
                    self.add_kind(kind, target, self.layout().cluster_bytes())
                        .await?;
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Notes that `len` bytes at `offset` are metadata.
    async fn add_kind(&self, kind: Kind, offset: u64, len: u64) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        let layout = self.layout();
        let end = offset.checked_add(len);
        let file_end = self
            .storage
            .size_bytes()
            .next_multiple_of(layout.cluster_bytes());
        if !layout.is_aligned(offset) || end.is_none_or(|end| end > file_end) {
            let problem = format!("{} is not on clusters within the file", kind.name());
            return self.refuse_table(offset, problem).await;
        }
        for cluster in layout.cluster_index(offset)..layout.clusters_for(offset + len) {
            let other = match self.kinds.borrow_mut().entry(cluster) {
                Entry::Vacant(entry) => {
                    entry.insert(kind);
                    continue;
                }
                Entry::Occupied(entry) => *entry.get(),
            };
            // Snapshots share L2 tables with the active L1, not within one.
            let problem = format!("{} and {} overlap", kind.name(), other.name());
            return self.refuse_table(offset, problem).await;
        }
        Ok(())
    }

    /// A table is not where it can be: an image that is only read does without, so that the rest
    /// of it can be saved.
    async fn refuse_table(&self, offset: u64, problem: String) -> Result<(), Error> {
        let error = self.damaged(offset, problem).await;
        if self.storage.geometry().read_only {
            tracing::warn!(%error, "damaged, but only read");
            return Ok(());
        }
        Err(error)
    }

    /// Notes that a new table was made.
    pub(super) fn add_table(&self, kind: Kind, offset: u64) {
        let cluster = self.layout().cluster_index(offset);
        self.kinds.borrow_mut().insert(cluster, kind);
    }

    /// Refuses a pointer to data that cannot be right.
    pub(super) async fn check_data(&self, offset: u64, len: u64) -> Result<(), Error> {
        match self.check_place(offset, len) {
            Ok(()) => Ok(()),
            Err(flaw) => Err(self.damaged(flaw.offset, flaw.problem).await),
        }
    }

    /// What is wrong with a pointer to `len` bytes of data at `offset`.
    pub(super) fn check_place(&self, offset: u64, len: u64) -> Result<(), Flaw> {
        if self.data_file.is_some() {
            return Ok(());
        }
        let layout = self.layout();
        let mut clusters = layout.cluster_index(offset)..layout.clusters_for(offset + len);
        let kinds = self.kinds.borrow();
        let problem = match clusters.find_map(|cluster| kinds.get(&cluster)) {
            Some(kind) => format!("guest data lies in {}", kind.name()),
            None if offset >= self.host_end() => {
                "guest data lies past the end of the file".to_owned()
            }
            None => return Ok(()),
        };
        Err(Flaw { offset, problem })
    }

    /// The image is damaged: says so, notes it in the image itself, and stops all writes.
    pub(super) async fn damaged(&self, offset: u64, problem: String) -> Error {
        let error = Error::Damaged {
            path: self.storage.path().to_owned(),
            offset,
            problem: problem.clone(),
        };
        let is_known = self
            .damage
            .borrow_mut()
            .replace((offset, problem))
            .is_some();
        let markable = self.version() >= 3 && !self.storage.geometry().read_only;
        if !is_known && markable && self.flusher.check(&self.storage).is_ok() {
            let features = {
                let mut header = self.header.borrow_mut();
                header.incompatible = header
                    .incompatible
                    .with(IncompatibleFeatures::CORRUPT, true);
                header.incompatible
            };
            let marked = self.write_incompatible(features).await;
            if let Err(error) = marked {
                tracing::warn!(%error, "cannot mark the damaged image as such");
            }
        }
        error
    }

    async fn write_incompatible(&self, features: IncompatibleFeatures) -> Result<(), Error> {
        let bytes = features.0.to_be_bytes().to_vec();
        let offset = Header::INCOMPATIBLE_OFFSET;
        file::write(&self.storage, offset, bytes).await?;
        self.flusher.changed();
        self.flusher.flush(&self.storage).await
    }

    /// Counts something.
    pub(super) fn count(&self, count: impl FnOnce(&mut Statistics)) {
        count(&mut self.statistics.borrow_mut());
    }
}

/// Enough for the disk, up to a bound.
fn default_l2_cache_bytes(header: &Header) -> u64 {
    let layout = header.layout;
    let covered = header.size_bytes.min(L2_CACHE_COVERAGE_BYTES);
    let bytes = layout.clusters_for(covered) * layout.l2_entry_bytes();
    bytes.min(L2_CACHE_BYTES_MAX)
}
