//! Where the guest's data is: looking it up, and changing it.
//! Part "Cluster mapping" of the specification.

use std::rc::Rc;

use super::allocator::{Allocation, Refcounts};
use super::image::{Flaw, Image, Kind};
use super::metadata::Page;
use super::transaction::{Freed, Stage};
use crate::journal::{Journal, Journaled as _};
use crate::mutant::mutant;
use crate::qcow2::file;
use crate::qcow2::format::{Cluster, L1Entry, L2Entry, Layout};
use crate::{Error, Storage};

/// A stretch of the disk that is in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) len: u64,
    pub(super) source: Source,
}

/// A reference that is about to be dropped.
pub(super) struct Drop {
    freed: Freed,
    /// The refcounts to change, if they are changed at once.
    counts: Vec<(u64, Refcounts)>,
}

/// Where data comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// This offset of the file.
    Host {
        offset: u64,
        /// Whether it may be written in place.
        copied: bool,
    },
    /// It is zeros.
    Zero {
        /// A place in the file that is kept for it.
        host: Option<u64>,
    },
    /// The backing file, or zeros if there is none.
    Backing,
    /// Compressed data of a whole cluster.
    Compressed { offset: u64, len: u64 },
}

impl Run {
    /// Whether `next` goes on where this ends.
    fn joins(&self, next: &Self) -> bool {
        match (self.source, next.source) {
            (
                Source::Host { offset, copied },
                Source::Host {
                    offset: next,
                    copied: next_copied,
                },
            ) => offset + self.len == next && copied == next_copied,
            (Source::Zero { host: Some(host) }, Source::Zero { host: Some(next) }) => {
                host + self.len == next
            }
            (Source::Zero { host: None }, Source::Zero { host: None })
            | (Source::Backing, Source::Backing) => true,
            _ => false,
        }
    }
}

/// What `cluster` says of the byte at `at` in it, and of those after it that are alike.
fn run_in(cluster: Cluster, layout: Layout, at: u64) -> Run {
    let (host, copied, subclusters) = match cluster {
        Cluster::Compressed { offset, len } => {
            return Run {
                len: layout.cluster_bytes() - at,
                source: Source::Compressed { offset, len },
            };
        }
        Cluster::Standard {
            host,
            copied,
            subclusters,
        } => (host, copied, subclusters),
    };
    let first = layout.subcluster_index(at);
    let state = |n: u32| (subclusters.allocated >> n & 1, subclusters.zero >> n & 1);
    let alike = (first..layout.subclusters()).take_while(|n| state(*n) == state(first));
    let end = (u64::from(first) + alike.count() as u64) * layout.subcluster_bytes();
    let source = match (state(first), host) {
        ((1, _), Some(host)) => Source::Host {
            offset: host + at,
            copied,
        },
        ((_, 1), host) => Source::Zero {
            host: host.map(|host| host + at),
        },
        _ => Source::Backing,
    };
    Run {
        len: end - at,
        source,
    }
}

impl<S: Storage> Image<S> {
    /// What is at `offset` of the disk, and how far it goes alike, within `len` and one page of a
    /// table.
    pub(super) async fn next_run(&self, offset: u64, len: u64) -> Result<Run, Error> {
        if let Some(run) = self.cached_run(offset, len) {
            return Ok(run);
        }
        let Some((page, at)) = self.l2_entry(offset).await? else {
            let coverage = self.layout().l2_coverage_bytes();
            return Ok(Run {
                len: len.min(coverage - offset % coverage),
                source: Source::Backing,
            });
        };
        match self.scan(&page, at, offset, len) {
            Ok(run) => Ok(run),
            Err(flaw) => Err(self.damaged(flaw.offset, flaw.problem).await),
        }
    }

    /// What [`Image::next_run`] says, if the tables are in memory, lead to something, and have no
    /// flaw.
    pub(super) fn cached_run(&self, offset: u64, len: u64) -> Option<Run> {
        let at = self.l1_offset(offset)?;
        let entry = L1Entry(self.metadata.cached(at)?.word(at));
        let table = self.l2_table(entry, at).ok()??;
        let at = self.l2_offset(table, offset);
        let page = self.metadata.cached(at)?;
        self.scan(&page, at, offset, len).ok()
    }

    /// The run at `offset` of the disk, whose entry is at `at` in `page`.
    fn scan(&self, page: &Page, mut at: u64, offset: u64, len: u64) -> Result<Run, Flaw> {
        let layout = self.layout();
        let mut run: Option<Run> = None;
        let mut done = 0;
        while done < len && at < page.end() {
            let cluster = self.decode(page, at, offset + done)?;
            let in_cluster = layout.in_cluster(offset + done);
            let mut next = run_in(cluster, layout, in_cluster);
            next.len = next.len.min(len - done);
            match &mut run {
                None => run = Some(next),
                Some(run) if run.joins(&next) => run.len += next.len,
                Some(run) => return Ok(*run),
            }
            if let Source::Host { offset, .. } = next.source {
                self.check_place(offset, next.len)?;
            }
            done += next.len;
            if layout.is_aligned(offset + done) {
                at += layout.l2_entry_bytes();
            }
        }
        Ok(run.expect("len is not 0"))
    }

    /// What the cluster at `offset` of the disk is.
    pub(super) async fn cluster_at(&self, offset: u64) -> Result<Cluster, Error> {
        let Some((page, at)) = self.l2_entry(offset).await? else {
            return Ok(Cluster::UNALLOCATED);
        };
        let placed = |cluster: Cluster| match cluster.host_range(self.layout()) {
            Some((host, len)) => self.check_place(host, len).map(|()| cluster),
            None => Ok(cluster),
        };
        match self.decode(&page, at, offset).and_then(placed) {
            Ok(cluster) => Ok(cluster),
            Err(flaw) => Err(self.damaged(flaw.offset, flaw.problem).await),
        }
    }

    /// What the entry at `at` in `page` says of the cluster at `offset` of the disk.
    fn decode(&self, page: &Page, at: u64, offset: u64) -> Result<Cluster, Flaw> {
        let layout = self.layout();
        let entry = read_entry(page, at, layout);
        let flaw = |problem: &str| Flaw {
            offset: at,
            problem: problem.to_owned(),
        };
        if let Some(problem) = entry.problem(layout, self.version()) {
            return Err(flaw(problem));
        }
        let cluster = entry.decode(layout, self.data_file.is_some());
        let host = cluster.host_range(layout).map(|(host, _)| host);
        let own = layout.cluster_start(offset);
        if self.data_file.is_some() && host.is_some_and(|host| host != own) {
            return Err(flaw("a cluster is not at its own place in the data file"));
        }
        Ok(cluster)
    }

    /// The page and the offset in the file of an L2 entry; absent if there is no table.
    async fn l2_entry(&self, offset: u64) -> Result<Option<(Rc<Page>, u64)>, Error> {
        let (_, at, entry) = self.l1_entry(offset).await?;
        let Ok(Some(table)) = self.l2_table(entry, at) else {
            return Ok(None);
        };
        let at = self.l2_offset(table, offset);
        Ok(Some((self.metadata.page(&self.storage, at).await?, at)))
    }

    /// The L1 entry for `offset` of the disk, with its page and its offset in the file.
    async fn l1_entry(&self, offset: u64) -> Result<(Rc<Page>, u64, L1Entry), Error> {
        let Some(at) = self.l1_offset(offset) else {
            return Err(self.past_the_end(offset));
        };
        let page = self.metadata.page(&self.storage, at).await?;
        let entry = L1Entry(page.word(at));
        match self.l2_table(entry, at) {
            Ok(_) => Ok((page, at, entry)),
            Err(flaw) => Err(self.damaged(flaw.offset, flaw.problem).await),
        }
    }

    /// Where in the file the L1 entry for `offset` of the disk is; absent past the end of the disk,
    /// which may have become shorter since the request was checked.
    fn l1_offset(&self, offset: u64) -> Option<u64> {
        let header = self.header.borrow();
        let index = header.layout.l1_index(offset);
        (index < u64::from(header.l1_entries)).then_some(header.l1_offset + index * 8)
    }

    fn past_the_end(&self, offset: u64) -> Error {
        Error::Request {
            path: self.storage.path().to_owned(),
            operation: "locate",
            offset,
            len: 0,
            reason: "past the end of the disk",
        }
    }

    /// Where in the file the entry for `offset` of the disk is, which is in this L2 table.
    fn l2_offset(&self, table: u64, offset: u64) -> u64 {
        let layout = self.layout();
        table + layout.l2_index(offset) * layout.l2_entry_bytes()
    }

    /// The table that the L1 entry at `at` leads to, if it leads to one.
    fn l2_table(&self, entry: L1Entry, at: u64) -> Result<Option<u64>, Flaw> {
        let Some(table) = entry.table_offset() else {
            return Ok(None);
        };
        let layout = self.layout();
        let kind = self
            .kinds
            .borrow()
            .get(&layout.cluster_index(table))
            .copied();
        if kind == Some(Kind::L2Table) && layout.is_aligned(table) {
            return Ok(Some(table));
        }
        Err(Flaw {
            offset: at,
            problem: "the L1 table points to something else".to_owned(),
        })
    }

    /// Says what the cluster at `offset` of the disk is from now on, and counts references to where
    /// it is and was, in one transaction. The caller holds the cluster exclusively, and has written
    /// the data. What it loses goes back to the host if `give_back`.
    pub(super) async fn map(
        &self,
        offset: u64,
        old: Cluster,
        new: Cluster,
        give_back: bool,
    ) -> Result<(), Error> {
        self.map_beside(offset, old, new, give_back, None).await
    }

    /// As [`Image::map`] does, and says in the same transaction what the cluster at another offset is,
    /// which stays in its place. The caller holds that exclusively too.
    pub(super) async fn map_beside(
        &self,
        offset: u64,
        old: Cluster,
        new: Cluster,
        give_back: bool,
        beside: Option<(u64, Cluster)>,
    ) -> Result<(), Error> {
        let layout = self.layout();
        let beside = match beside {
            Some((offset, cluster)) => Some((self.own_entry(offset).await?, cluster)),
            None => None,
        };
        let own = self.own_entry(offset).await?;
        let place = |cluster: Cluster| {
            let counted = self.data_file.is_none();
            cluster.host_range(layout).filter(|_| counted)
        };
        let moves = place(old) != place(new);
        let taken = self.counts_of(place(new).filter(|_| moves)).await?;
        // With a journal, only what nobody has any more is freed. Without, others may have it still.
        let frees = match old {
            Cluster::Standard { copied, .. } => copied || self.journal().is_some(),
            Cluster::Compressed { .. } => false,
        };
        let dropped = place(old).filter(|_| moves).map(|(offset, len)| Freed {
            offset,
            len,
            give_back: give_back && frees,
            held: None,
        });
        let dropped = self.prepare_drop(dropped).await?;
        self.make_room().await?;
        // From here on nothing waits: it is one transaction.
        let entry = if give_back && mutant("a discard keeps the pointer") {
            L2Entry::encode(old, layout)
        } else {
            L2Entry::encode(new, layout)
        };
        self.set_entry(&own, entry);
        if let Some((place, cluster)) = &beside {
            self.set_entry(place, L2Entry::encode(*cluster, layout));
        }
        self.add_references(&taken);
        if moves {
            self.note_unsettled(old);
        }
        self.drop_prepared(dropped);
        Ok(())
    }

    /// The entry for `offset` of the disk, in a table that is ours to change.
    async fn own_entry(&self, offset: u64) -> Result<(Rc<Page>, u64), Error> {
        let table = self.own_l2_table(offset).await?;
        let at = self.l2_offset(table, offset);
        Ok((self.metadata.page(&self.storage, at).await?, at))
    }

    fn set_entry(&self, (page, at): &(Rc<Page>, u64), entry: L2Entry) {
        let (metadata, at) = (&self.metadata, *at);
        metadata.set_word(Stage::L2, page, at, entry.descriptor);
        if self.layout().extended_l2 {
            metadata.set_word(Stage::L2, page, at + 8, entry.bitmap);
        }
    }

    /// Makes everything ready to drop a reference to `freed` without a wait.
    pub(super) async fn prepare_drop(&self, freed: Option<Freed>) -> Result<Option<Drop>, Error> {
        let Some(freed) = freed else {
            return Ok(None);
        };
        // Without a journal, it is uncounted when that cannot be undone any more.
        let counts = match self.journal() {
            Some(_) => self.counts_of(Some((freed.offset, freed.len))).await?,
            None => Vec::new(),
        };
        Ok(Some(Drop { freed, counts }))
    }

    /// Drops a reference in the pending transaction.
    pub(super) fn drop_prepared(&self, dropped: Option<Drop>) {
        let Some(Drop { freed, counts }) = dropped else {
            return;
        };
        let freed = match self.journal() {
            Some(journal) => self.drop_counted(&journal, freed, &counts),
            None => vec![freed],
        };
        for freed in freed {
            if mutant("clusters are free before that is durable") {
                self.committer.freed.borrow_mut().push(freed);
            } else {
                self.metadata.free(freed);
            }
        }
    }

    /// Uncounts a reference, and holds the clusters that have none left until that is durable.
    fn drop_counted(
        &self,
        journal: &Journal,
        freed: Freed,
        counts: &[(u64, Refcounts)],
    ) -> Vec<Freed> {
        let layout = self.layout();
        let clusters = self.drop_references_later(counts).into_iter();
        let held = clusters.map(|(cluster, number)| {
            let offset = cluster << layout.cluster_bits;
            journal.forget(&(offset..offset + layout.cluster_bytes()));
            Freed {
                offset,
                len: layout.cluster_bytes(),
                give_back: freed.give_back,
                held: Some(number),
            }
        });
        held.collect()
    }

    /// The L2 table for `offset` of the disk, made or copied if it is not ours to change.
    async fn own_l2_table(&self, offset: u64) -> Result<u64, Error> {
        let is_own = |entry: L1Entry| entry.table_offset().filter(|_| entry.is_copied());
        if let Some(table) = is_own(self.l1_entry(offset).await?.2) {
            return Ok(table);
        }
        let _turn = self.tables.all().await;
        let (page, at, entry) = self.l1_entry(offset).await?;
        if let Some(table) = is_own(entry) {
            return Ok(table);
        }
        let allocation = self.allocate(1).await?;
        let made = self.make_l2_table(&page, at, entry, allocation).await;
        if made.is_err() {
            self.unallocate(allocation).await;
        }
        made.map(|()| allocation.offset)
    }

    /// Makes the L2 table that the L1 entry at `at` leads to from now on.
    async fn make_l2_table(
        &self,
        page: &Page,
        at: u64,
        entry: L1Entry,
        allocation: Allocation,
    ) -> Result<(), Error> {
        let cluster_bytes = self.layout().cluster_bytes();
        let content = match entry.table_offset() {
            Some(old) => self.read_table(old, file::len(cluster_bytes)).await?,
            None => vec![0; file::len(cluster_bytes)],
        };
        let table = allocation.offset;
        let taken = self.counts_of(Some((table, cluster_bytes))).await?;
        let old = entry.table_offset().map(|offset| Freed {
            offset,
            len: cluster_bytes,
            give_back: false,
            held: None,
        });
        let dropped = self.prepare_drop(old).await?;
        self.make_room().await?;
        // From here on nothing waits: it is one transaction.
        self.metadata.fresh(table, &content, allocation.is_zero);
        self.add_table(Kind::L2Table, table);
        let new = L1Entry::new(table, true);
        self.metadata.set_word(Stage::L1, page, at, new.0);
        self.add_references(&taken);
        self.drop_prepared(dropped);
        Ok(())
    }

    /// Reads a table that is shared, and so the same in the file as in memory.
    async fn read_table(&self, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        file::read(&self.storage, offset, len).await
    }
}

fn read_entry(page: &Page, at: u64, layout: Layout) -> L2Entry {
    L2Entry {
        descriptor: page.word(at),
        bitmap: if layout.extended_l2 {
            page.word(at + 8)
        } else {
            0
        },
    }
}
