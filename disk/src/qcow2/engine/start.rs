//! The beginning and the end of an image's journal.
//!
//! ```text
//!   region: zeros, superblock ── sync ── first sector: where it is, and the feature ── sync ── in use
//!   everything home ── sync ── first sector as it was ── sync ── region given back
//! ```
//! The superblock keeps the first sector. Of the first cluster only that sector changes, by one
//! write: the image is an ordinary one before and after.

use std::ops::Range;
use std::rc::Rc;

use super::image::Image;
use crate::journal::{Journal, Journaled as _, REGION_BYTES_MAX, REGION_BYTES_MIN};
use crate::mutant::mutant;
use crate::qcow2::file;
use crate::qcow2::format::{Header, IncompatibleFeatures, JournalExtension};
use crate::qcow2::journal::{place_name, sector_without_journal};
use crate::{Error, Order, Storage};

/// Enough for about a thousand flushes between two checkpoints.
const REGION_BYTES: u64 = 4 << 20;
/// A table of a cluster must fit in a record.
const CLUSTERS_MIN: u64 = 4;

impl<S: Storage> Image<S> {
    /// Makes the image's journal, if it is to have one. An image that has no room for one goes on
    /// without, unless one was asked for.
    pub(super) async fn start_journal(&self) -> Result<(), Error> {
        if self.order.get() != Order::Journal {
            return Ok(());
        }
        let before = (self.free_space.end(), self.storage.size_bytes());
        let refused = match self.make_journal().await {
            Ok(None) => return Ok(()),
            Ok(Some(problem)) => Error::Unsupported {
                path: self.storage.path().to_owned(),
                problem,
            },
            Err(error) => error,
        };
        self.free_space.reserve(0..0);
        self.check_writable("write")?;
        self.free_space.untouched.set(before.0);
        if self.storage.size_bytes() > before.1 {
            self.storage.set_len(before.1).await?;
            self.flusher.changed();
        }
        let has_no_room = matches!(refused, Error::Unsupported { .. }) || refused.is_no_space();
        if self.needs_journal || !has_no_room {
            return Err(refused);
        }
        tracing::info!(%refused, "metadata is kept in order by syncs, which is slower");
        self.order.set(Order::Ordered);
        Ok(())
    }

    /// Makes the journal; or says why there can be none.
    async fn make_journal(&self) -> Result<Option<String>, Error> {
        let header = self.header.borrow().clone();
        if header.version < 3 {
            return Ok(Some(
                "version 2 of the format cannot have a journal".to_owned(),
            ));
        }
        let region = self.journal_place();
        let layout = header.layout;
        let clusters = layout.cluster_index(region.start)..layout.clusters_for(region.end);
        let space = &self.free_space;
        space.reserve(clusters.clone());
        space.untouched.set(space.untouched.get().max(clusters.end));
        self.growth.pass_over(region.clone()).await;
        let kept = file::read(&self.storage, 0, 512).await?;
        let journal = self.create_journal(region.clone(), &kept).await?;
        let header = Header {
            incompatible: header
                .incompatible
                .with(IncompatibleFeatures::JOURNAL, true),
            journal: Some(JournalExtension {
                region,
                identity: journal.identity(),
                shared: self.dedup.is_some(),
            }),
            ..header
        };
        let Some(sector) = place_name(&self.storage, &header).await? else {
            return Ok(Some(
                "the header has no room for a journal's place".to_owned(),
            ));
        };
        self.flusher.changed();
        if !mutant("the journal is used before it is durable") {
            self.flusher.flush(&self.storage).await?;
        }
        self.switch_sector(sector).await?;
        self.header.replace(header);
        self.journaled.journal.replace(Some(Rc::new(journal)));
        Ok(None)
    }

    async fn create_journal(&self, region: Range<u64>, kept: &[u8]) -> Result<Journal, Error> {
        self.free_space.allocated_end.set(0);
        Journal::create(&self.storage, region, kept, self.past_journals.get()).await
    }

    /// Whole clusters that nobody uses, behind all others.
    fn journal_place(&self) -> Range<u64> {
        let layout = self.layout();
        let cluster_bytes = layout.cluster_bytes();
        let wanted = self.journal_bytes.unwrap_or(REGION_BYTES);
        let bytes = wanted
            .max(CLUSTERS_MIN * cluster_bytes)
            .clamp(REGION_BYTES_MIN, REGION_BYTES_MAX)
            .next_multiple_of(cluster_bytes);
        let start = self.free_space.end() << layout.cluster_bits;
        start..start + bytes
    }

    /// Writes the first sector, durably.
    async fn switch_sector(&self, mut sector: Vec<u8>) -> Result<(), Error> {
        sector.resize(512, 0);
        let written = file::write(&self.storage, 0, sector).await;
        self.flusher.changed();
        // Where it fails, nobody knows which one the image has.
        written.inspect_err(|_| self.flusher.fail())?;
        self.flusher.flush(&self.storage).await
    }

    /// Ends the journal: the image is an ordinary one afterwards. Nothing waits for a commit.
    pub(super) async fn end_journal(&self) -> Result<(), Error> {
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        journal.checkpoint(self).await?;
        if !mutant("the journal ends before all is home") {
            self.flusher.changed();
            self.flusher.flush(&self.storage).await?;
        }
        let header = self.header.borrow().clone().without_journal();
        self.switch_sector(sector_without_journal(journal.kept(), &header))
            .await?;
        self.header.replace(header);
        self.journaled.journal.replace(None);
        self.past_journals.set(journal.statistics());
        self.free_space.reserve(0..0);
        self.is_prepared.set(false);
        self.shrink().await;
        self.give_back(journal.region()).await;
        Ok(())
    }

    /// Gives back the journal's space, which nobody uses any more.
    async fn give_back(&self, region: Range<u64>) {
        let given = if self.used_end(&region) == region.start {
            self.storage.set_len(region.start).await
        } else {
            let len = region.end - region.start;
            self.storage.discard(region.start, len).await.map(drop)
        };
        self.flusher.changed();
        if let Err(error) = given {
            tracing::debug!(%error, "the journal's space stays with the file");
        }
    }

    /// Where what is in use ends, once the journal in `region` is not.
    fn used_end(&self, region: &Range<u64>) -> u64 {
        let end = self.free_space.allocated_end.get() << self.layout().cluster_bits;
        end.max(region.start)
    }

    /// Cuts off what the file has grown ahead.
    pub(super) async fn shrink(&self) {
        let end = self.free_space.end() << self.layout().cluster_bits;
        if let Err(error) = self.growth.give_back(&self.storage, end).await {
            tracing::debug!(%error, "the file keeps what it has grown ahead");
        }
        self.flusher.changed();
    }
}
