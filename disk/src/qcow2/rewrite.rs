//! Changing the metadata of an image that nobody uses, at one stroke.
//!
//! Everything new goes to clusters that were free: tables, and all refcount blocks that change.
//! After a sync, one write of the first sector leads to them, and after another it is durable.
//! Whatever is cut short, the image is what it was or what it is to be, and whole.

mod allocate;
mod commit;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use super::counts::Counts;
use super::file;
use super::format::{Header, IncompatibleFeatures, Layout};
use crate::{Error, Storage};
pub(crate) use tree::Change;

/// The bytes that are written at once or not at all.
const SECTOR_BYTES: usize = 512;

/// A change of an image's metadata, of which nothing is seen until [`Rewrite::commit`].
pub(crate) struct Rewrite<'a, S> {
    storage: &'a S,
    /// The header as it is to be.
    pub(crate) header: Header,
    /// The refcounts as they are to be.
    counts: Counts,
    /// Where the refcount blocks are, by their index in the refcount table.
    blocks: BTreeMap<u64, u64>,
    /// The indexes of blocks that must be written.
    changed: BTreeSet<u64>,
    /// Clusters that the image needs until the change is made.
    freed: Counts,
    /// No cluster below is free.
    next_free: u64,
    /// Whether a cluster has lost all references but one.
    pub(crate) is_unsettled: bool,
}

impl<'a, S: Storage> Rewrite<'a, S> {
    /// Begins a change of the image with this header.
    pub(crate) async fn begin(storage: &'a S, header: &Header) -> Result<Self, Error> {
        let mut rewrite = Self {
            storage,
            header: header.clone(),
            counts: Counts::default(),
            blocks: BTreeMap::new(),
            changed: BTreeSet::new(),
            freed: Counts::default(),
            next_free: 0,
            is_unsettled: false,
        };
        rewrite.refuse_damaged()?;
        rewrite.load().await?;
        Ok(rewrite)
    }

    /// Begins a change in which all refcounts are made anew. `counts` are those of everything but
    /// refcount structures.
    pub(crate) fn rebuild(storage: &'a S, header: Header, counts: Counts) -> Self {
        let layout = header.layout;
        let entries = layout.refcount_block_entries();
        Self {
            storage,
            changed: counts
                .iter()
                .map(|(cluster, _)| cluster / entries)
                .collect(),
            // Behind everything that is referred to, rightly or not.
            next_free: layout
                .clusters_for(storage.size_bytes())
                .max(counts.last().map_or(0, |last| last + 1)),
            header: Header {
                refcount_table_clusters: 0,
                ..header
            },
            counts,
            blocks: BTreeMap::new(),
            freed: Counts::default(),
            is_unsettled: false,
        }
    }

    /// What is changed.
    pub(crate) fn storage(&self) -> &'a S {
        self.storage
    }

    pub(crate) fn layout(&self) -> Layout {
        self.header.layout
    }

    fn refuse_damaged(&self) -> Result<(), Error> {
        let marks = IncompatibleFeatures::DIRTY | IncompatibleFeatures::CORRUPT;
        if self.header.incompatible.0 & marks == 0 {
            return Ok(());
        }
        Err(Error::Unsupported {
            path: self.storage.path().to_owned(),
            problem: "marked dirty or corrupt; repair it first".into(),
        })
    }

    fn damaged(&self, offset: u64, problem: &str) -> Error {
        Error::Damaged {
            path: self.storage.path().to_owned(),
            offset,
            problem: format!("{problem}; check and repair the image first"),
        }
    }

    pub(crate) fn unsupported(&self, problem: impl Into<String>) -> Error {
        Error::Unsupported {
            path: self.storage.path().to_owned(),
            problem: problem.into(),
        }
    }

    /// Reads the refcounts.
    async fn load(&mut self) -> Result<(), Error> {
        let layout = self.layout();
        let (offset, words) = (
            self.header.refcount_table_offset,
            self.header.refcount_table_bytes() / 8,
        );
        let mut blocks = BTreeMap::new();
        file::for_each_word(self.storage, offset, words, |index, block| {
            blocks.insert(index, block);
        })
        .await?;
        for (index, block) in &blocks {
            self.check_table(offset + index * 8, *block, "a refcount block")?;
            self.counts
                .load_block(self.storage, layout, *index, *block)
                .await?;
        }
        self.blocks = blocks;
        Ok(())
    }

    /// Refuses a table of one cluster that is where none can be; `at` is what points to it.
    fn check_table(&self, at: u64, table: u64, what: &str) -> Result<(), Error> {
        if !self.layout().is_aligned(table) || table >= self.storage.size_bytes() {
            let problem = format!("{what} is not on a cluster of the file");
            return Err(self.damaged(at, &problem));
        }
        Ok(())
    }
}

/// Makes `header` the image's: all but its extensions, which stay. All that it leads to is there
/// and durable.
pub(crate) async fn switch(storage: &impl Storage, header: &Header) -> Result<(), Error> {
    let mut sector = file::read(storage, 0, SECTOR_BYTES).await?;
    header.update(&mut sector);
    file::write(storage, 0, sector).await?;
    storage.sync().await
}
