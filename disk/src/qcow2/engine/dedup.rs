//! Storing data once that is alike: a whole cluster whose content is somewhere in the file already is
//! not written, and points there, as clusters do that snapshots share.
//!
//! Content is known by a keyed fingerprint, in an index of what was written and is still there; what
//! does not fit in its memory is not found. A cluster that gets a second pointer must not be
//! overwritten by its first owner any more, whose entry loses its flag COPIED for that: both entries
//! and the refcount change in one transaction, which takes a journal.
//!
//! The pending transaction may point to data only that is durable no later than itself. So it has a
//! sync before it (as for compressed data), unless the data is durable or has its checksum in the same
//! record. See docs/dedup.md.

mod fingerprint;
mod index;

use std::cell::{Cell, RefCell};
use std::ops::{Range, RangeInclusive};

use super::image::Image;
use super::open::DedupOptions;
use super::read::slice;
use super::zero::Zeroing;
use crate::executor::yield_now;
use crate::journal::Journaled as _;
use crate::mutant::mutant;
use crate::qcow2::file;
use crate::qcow2::format::{Cluster, Layout, Subclusters};
use crate::{Buffers, DedupHint, DedupStatistics, Error, Op, Request, Storage};
use fingerprint::{Fingerprint, Fingerprinter};
use index::{Index, Place};

/// After so much was looked up, other requests get a turn.
const TURN_BYTES: u64 = 1 << 20;

/// The memory for what was read to be copied, beside the index: the guest's page cache may hold back
/// 256 MiB of a copy in clusters of 4 KiB.
const COPIES_BYTES: u64 = 4 << 20;

/// What finds data that is alike.
pub(super) struct Dedup {
    fingerprinter: Fingerprinter,
    /// What was written.
    index: RefCell<Index>,
    /// What was read to be copied, until it is.
    copies: RefCell<Index>,
    statistics: Cell<DedupStatistics>,
}

/// A write whose content is looked at.
struct Looked<'a> {
    dedup: &'a Dedup,
    offset: u64,
    /// A copy: the guest may change its memory meanwhile, and what is known of it must be what is
    /// written.
    content: Buffers,
    /// The clusters that are held for it.
    own: RangeInclusive<u64>,
    /// Whether what is written is worth an entry.
    is_kept: bool,
}

/// The part of a write that is nowhere yet, as far as is known, and waits to be written.
struct Unknown {
    start: u64,
    /// Its whole clusters, and their content.
    clusters: Vec<(u64, Fingerprint)>,
}

impl Dedup {
    pub(super) fn new(options: &DedupOptions) -> Self {
        Self {
            fingerprinter: Fingerprinter::new(&options.key),
            index: RefCell::new(Index::new(options.index_bytes)),
            copies: RefCell::new(Index::new(COPIES_BYTES)),
            statistics: Cell::default(),
        }
    }

    pub(super) fn statistics(&self) -> DedupStatistics {
        self.statistics.get()
    }

    /// Where this content is.
    fn find(&self, content: &Fingerprint) -> Option<Place> {
        let copied = self.copies.borrow_mut().find(content);
        copied.or_else(|| self.index.borrow_mut().find(content))
    }

    /// The cluster at `host` of the file is about to have other content.
    fn forget(&self, host: u64) {
        self.index.borrow_mut().forget(host);
        self.copies.borrow_mut().forget(host);
    }

    fn count(&self, count: impl FnOnce(&mut DedupStatistics)) {
        let mut statistics = self.statistics.get();
        count(&mut statistics);
        self.statistics.set(statistics);
    }
}

impl<S: Storage> Image<S> {
    /// Whether a request must take the way on which content is looked at.
    pub(super) fn looks_at_content(&self, request: &Request) -> bool {
        let looks = match request.op {
            Op::Write(_) => true,
            Op::Read(_) => request.dedup == DedupHint::Prefetch,
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => false,
        };
        looks && self.dedup.is_some()
    }

    /// Some bytes of the file are about to be overwritten, or used for something else.
    pub(super) fn forget_alike(&self, bytes: &Range<u64>) {
        if let Some(dedup) = self
            .dedup
            .as_ref()
            .filter(|_| !mutant("overwritten content is found"))
        {
            let layout = self.layout();
            for cluster in layout.cluster_index(bytes.start)..layout.clusters_for(bytes.end) {
                dedup.forget(cluster << layout.cluster_bits);
            }
        }
    }

    /// The file has been changed by others.
    pub(super) fn forget_all_alike(&self) {
        if let Some(dedup) = &self.dedup {
            dedup.index.borrow_mut().clear();
            dedup.copies.borrow_mut().clear();
        }
    }

    /// A cluster leaves its place. If that is shared, the last who is left there may have it alone.
    pub(super) fn note_unsettled(&self, old: Cluster) {
        let is_shared = matches!(
            old,
            Cluster::Standard {
                host: Some(_),
                copied: false,
                ..
            }
        );
        // Without snapshots, nothing else has clusters shared.
        if is_shared && (self.dedup.is_some() || self.header.borrow().snapshots == 0) {
            self.is_unsettled.set(true);
        }
    }

    /// Writes, but for what is there already.
    pub(super) async fn write_alike(
        &self,
        offset: u64,
        buffers: Buffers,
        hint: DedupHint,
    ) -> Result<(), Error> {
        let (layout, len) = (self.layout(), buffers.len() as u64);
        let whole = whole_clusters(layout, offset, len);
        let bytes = whole.end - whole.start;
        let (Some(dedup), Some(_)) = (&self.dedup, self.guarding_journal()) else {
            return self.write(offset, buffers).await;
        };
        if hint == DedupHint::NoDedup {
            dedup.count(|counts| counts.unique_bytes += bytes);
        }
        if whole.is_empty() || hint == DedupHint::NoDedup {
            return self.write(offset, buffers).await;
        }
        dedup.count(|counts| counts.looked_up_bytes += bytes);
        let own = layout.cluster_index(offset)..=layout.cluster_index(offset + len - 1);
        let _exclusive = self.guest.exclusive(*own.start(), *own.end()).await;
        let write = Looked {
            dedup,
            offset,
            content: Buffers::from_vec(buffers.to_vec()),
            own,
            is_kept: hint != DedupHint::Prefetch,
        };
        self.write_looked(&write, whole).await
    }

    async fn write_looked(&self, write: &Looked<'_>, whole: Range<u64>) -> Result<(), Error> {
        let cluster_bytes = self.layout().cluster_bytes();
        let mut cluster = vec![0; file::len(cluster_bytes)];
        let mut unknown = Unknown {
            start: write.offset,
            clusters: Vec::new(),
        };
        for at in whole.clone().step_by(cluster.len()) {
            if at > whole.start && (at - whole.start).is_multiple_of(TURN_BYTES) {
                // What waits is compared with all that comes.
                self.write_unknown(write, &mut unknown, at).await?;
                yield_now().await;
            }
            self.relieve_here().await?;
            slice(&write.content, at - write.offset, cluster_bytes).copy_to(&mut cluster);
            let content = write.dedup.fingerprinter.of(&cluster);
            if unknown.clusters.iter().any(|(_, other)| *other == content) {
                // It is about to be there.
                self.write_unknown(write, &mut unknown, at).await?;
            }
            let is_zero = cluster.iter().all(|byte| *byte == 0);
            if is_zero {
                let end = at + cluster_bytes;
                self.zero_in_cluster(at, end, Zeroing::Unmap).await?;
            } else if !self.share(write, at, &content).await? {
                unknown.clusters.push((at, content));
                continue;
            }
            self.write_unknown(write, &mut unknown, at).await?;
            unknown.start = at + cluster_bytes;
            write
                .dedup
                .count(|counts| counts.shared_bytes += cluster_bytes);
        }
        let end = write.offset + write.content.len() as u64;
        self.write_unknown(write, &mut unknown, end).await
    }

    /// Writes what waits, up to `end`, and notes where it is.
    async fn write_unknown(
        &self,
        write: &Looked<'_>,
        unknown: &mut Unknown,
        end: u64,
    ) -> Result<(), Error> {
        let start = std::mem::replace(&mut unknown.start, end);
        if start < end {
            let part = slice(&write.content, start - write.offset, end - start);
            match self.in_place(start, &part).await? {
                Some(pieces) => self.write_pieces(pieces).await?,
                None => self.write_mapping(start, &part).await?,
            }
        }
        for (at, content) in unknown.clusters.drain(..) {
            if write.is_kept {
                self.note_content(&write.dedup.index, at, content).await?;
            }
        }
        Ok(())
    }

    /// Notes what the cluster at `guest` of the disk has, if all of it is in one place of the file.
    /// The caller holds it exclusively since that was read or written. Whether that is so.
    async fn note_content(
        &self,
        index: &RefCell<Index>,
        guest: u64,
        content: Fingerprint,
    ) -> Result<bool, Error> {
        let cluster = self.cluster_at(guest).await?;
        let Some(host) = whole_place(cluster, self.layout()) else {
            return Ok(false);
        };
        let mark = self.flusher.mark();
        let place = Place { host, guest, mark };
        index.borrow_mut().note(content, place);
        Ok(true)
    }

    /// Has the cluster at `at` of the disk be where its new content is; whether that is known, and can
    /// be done now.
    async fn share(
        &self,
        write: &Looked<'_>,
        at: u64,
        content: &Fingerprint,
    ) -> Result<bool, Error> {
        let layout = self.layout();
        let Some(place) = write.dedup.find(content) else {
            return Ok(false);
        };
        let owner = layout.cluster_index(place.guest);
        // Who waited for it, holding others, could wait for ever.
        let held = write.own.contains(&owner);
        let guard = self.guest.try_exclusive(owner, owner).filter(|_| !held);
        if guard.is_none() && !held {
            return Ok(false);
        }
        let first = self.cluster_at(place.guest).await?;
        if whole_place(first, layout) != Some(place.host) {
            write.dedup.forget(place.host);
            return Ok(false);
        }
        let old = self.cluster_at(at).await?;
        let shares = whole_place(old, layout) == Some(place.host)
            || self
                .point_to(place, (place.guest, first), (at, old))
                .await?;
        if shares && !write.is_kept {
            write.dedup.copies.borrow_mut().forget(place.host);
        }
        Ok(shares)
    }

    /// Maps a cluster to where another one is, neither of which may be overwritten in its place from
    /// then on; false if there are too many already.
    async fn point_to(
        &self,
        place: Place,
        (guest, first): (u64, Cluster),
        (at, old): (u64, Cluster),
    ) -> Result<bool, Error> {
        let layout = self.layout();
        // Compressed data may begin there in a damaged image, which is another reference.
        let is_new = old.host_range(layout) != Some((place.host, layout.cluster_bytes()));
        if is_new && !self.pin_in_turn(place.host).await? {
            return Ok(false);
        }
        let shared = Cluster::Standard {
            host: Some(place.host),
            copied: false,
            subclusters: Subclusters::whole(layout),
        };
        let copied = matches!(first, Cluster::Standard { copied: true, .. });
        let beside = copied && !mutant("the first owner may still overwrite what is shared");
        let beside = beside.then_some((guest, shared));
        if let Err(error) = self.map_beside(at, old, shared, false, beside).await {
            if is_new {
                self.unpin_bytes(place.host);
            }
            return Err(error);
        }
        // Nothing has waited since: this is of the transaction that has the pointer.
        let bytes = place.host..place.host + layout.cluster_bytes();
        if let Some(journal) = self.guarding_journal()
            && !self.flusher.is_durable(place.mark)
            && !journal.checks.vouches_for(&bytes)
            && !mutant("shared data is not made durable")
        {
            journal.checks.note_unchecked();
        }
        Ok(true)
    }

    async fn pin_in_turn(&self, host: u64) -> Result<bool, Error> {
        let _turn = self.free_space.lock.all().await;
        self.pin_shared(host).await
    }

    /// Reads what is about to be written elsewhere, and notes where it is.
    pub(super) async fn read_copied(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let Some(dedup) = &self.dedup else {
            return self.read_locked(offset, buffers).await;
        };
        let (layout, len) = (self.layout(), buffers.len() as u64);
        let (first, last) = (
            layout.cluster_index(offset),
            layout.cluster_index(offset + len - 1),
        );
        // What is noted must be what was read, whatever others write or the guest does to its memory.
        let _exclusive = self.guest.exclusive(first, last).await;
        let content = Buffers::zeroed(buffers.len());
        self.read(offset, &content).await?;
        let content = content.to_vec();
        buffers.copy_from(&content);
        let cluster_bytes = file::len(layout.cluster_bytes());
        for at in whole_clusters(layout, offset, len).step_by(cluster_bytes) {
            let start = file::len(at - offset);
            let cluster = &content[start..start + cluster_bytes];
            let fingerprint = dedup.fingerprinter.of(cluster);
            if self.note_content(&dedup.copies, at, fingerprint).await? {
                dedup.count(|counts| counts.prefetched_bytes += layout.cluster_bytes());
            }
        }
        Ok(())
    }
}

/// The clusters that lie in a range as a whole, as bytes of the disk.
fn whole_clusters(layout: Layout, offset: u64, len: u64) -> Range<u64> {
    let start = offset.next_multiple_of(layout.cluster_bytes());
    start..layout.cluster_start(offset + len).max(start)
}

/// Where a cluster is, if all of it is in one place.
fn whole_place(cluster: Cluster, layout: Layout) -> Option<u64> {
    match cluster {
        Cluster::Standard {
            host, subclusters, ..
        } if subclusters == Subclusters::whole(layout) => host,
        _ => None,
    }
}
