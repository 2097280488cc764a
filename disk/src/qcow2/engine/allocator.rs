//! Host clusters: which are free, taking them, giving them back.
//! Part "Host cluster management" of the specification.

mod grow;

use std::rc::Rc;

use super::image::{Image, Kind};
use super::metadata::Page;
use super::transaction::{Freed, Stage};
use crate::journal::Journaled as _;
use crate::mutant::mutant;
use crate::{Error, Storage};

/// Host offsets that a table can point to end here, exclusively.
const HOST_OFFSET_BITS: u32 = 56;

/// Contiguous host clusters that are kept for whoever asked for them. They are counted when
/// something points to them, in the same transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allocation {
    pub(super) offset: u64,
    pub(super) clusters: u64,
    /// Whether they read as zeros as they are.
    pub(super) is_zero: bool,
}

/// Some refcounts that are in one page.
pub(super) struct Refcounts {
    page: Rc<Page>,
    /// The cluster of the first one.
    first: u64,
    count: usize,
}

impl<S: Storage> Image<S> {
    /// Takes between 1 and `wanted` contiguous clusters.
    pub(super) async fn allocate(&self, wanted: u64) -> Result<Allocation, Error> {
        let _turn = self.free_space.lock.all().await;
        self.allocate_in_turn(wanted).await
    }

    async fn allocate_in_turn(&self, wanted: u64) -> Result<Allocation, Error> {
        let mut cluster = self.free_space.hint.get();
        loop {
            if cluster >> (HOST_OFFSET_BITS - self.layout().cluster_bits) != 0 {
                return Err(self.cannot_grow());
            }
            if let Some(end) = self.free_space.reserved_end(cluster) {
                cluster = end;
                continue;
            }
            let Some(refcounts) = self.refcounts_of(cluster).await? else {
                self.add_refcount_block(cluster).await?;
                continue;
            };
            match self.find_free(&refcounts, cluster, wanted) {
                Some((start, count)) => return self.take(start, count).await,
                None => cluster = refcounts.first + refcounts.count as u64,
            }
        }
    }

    /// The first free run from `cluster` on.
    fn find_free(&self, refcounts: &Refcounts, cluster: u64, wanted: u64) -> Option<(u64, u64)> {
        let width = self.layout().refcount_width;
        let index = |cluster| usize::try_from(cluster - refcounts.first).unwrap_or(usize::MAX);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        refcounts.page.with(|bytes| {
            let number = |n: usize| refcounts.first + n as u64;
            let is_free =
                |n: &usize| width.get(bytes, *n) == 0 && self.free_space.is_available(number(*n));
            let start = (index(cluster)..refcounts.count).find(is_free)?;
            let end = start.saturating_add(wanted).min(refcounts.count);
            let count = (start..end).take_while(is_free).count();
            Some((refcounts.first + start as u64, count as u64))
        })
    }

    /// Keeps free clusters, after making sure that they are free.
    async fn take(&self, start: u64, count: u64) -> Result<Allocation, Error> {
        let layout = self.layout();
        self.check_free(start, count).await?;
        (start..start + count).for_each(|cluster| self.free_space.pin(cluster));
        let space = &self.free_space;
        space.hint.set(start + count);
        let is_zero = space.hand_out(start..start + count, layout);
        let bytes = start << layout.cluster_bits..(start + count) << layout.cluster_bits;
        self.forget_alike(&bytes);
        self.growth.claim(bytes).await;
        Ok(Allocation {
            offset: start << layout.cluster_bits,
            clusters: count,
            is_zero,
        })
    }

    /// Refuses clusters that are free as it seems, and are not.
    async fn check_free(&self, start: u64, count: u64) -> Result<(), Error> {
        let used = {
            let kinds = self.kinds.borrow();
            (start..start + count).find(|cluster| kinds.contains_key(cluster))
        };
        let Some(cluster) = used else {
            return Ok(());
        };
        let problem = "the refcount of a cluster that is in use is 0".to_owned();
        let offset = cluster << self.layout().cluster_bits;
        Err(self.damaged(offset, problem).await)
    }

    fn cannot_grow(&self) -> Error {
        Error::Unsupported {
            path: self.storage.path().to_owned(),
            problem: "the file cannot grow any further in this format".to_owned(),
        }
    }

    fn refcount_table_entry(&self, cluster: u64) -> Option<u64> {
        let header = self.header.borrow();
        let block = cluster / header.layout.refcount_block_entries();
        let offset = header.refcount_table_offset + block * 8;
        (block * 8 < header.refcount_table_bytes()).then_some(offset)
    }

    /// The refcounts around that of `cluster`; absent if they have no block.
    async fn refcounts_of(&self, cluster: u64) -> Result<Option<Refcounts>, Error> {
        let layout = self.layout();
        let Some(entry_offset) = self.refcount_table_entry(cluster) else {
            return Ok(None);
        };
        let table = self.metadata.page(&self.storage, entry_offset).await?;
        let block = table.word(entry_offset);
        if block == 0 {
            return Ok(None);
        }
        let index = layout.cluster_index(block);
        if self.kinds.borrow().get(&index) != Some(&Kind::RefcountBlock) {
            let problem = "the refcount table points to something else".to_owned();
            return Err(self.damaged(entry_offset, problem).await);
        }
        let in_block = cluster % layout.refcount_block_entries();
        let offset = block + layout.refcount_width.byte_of(in_block);
        let page = self.metadata.page(&self.storage, offset).await?;
        let bits = (page.start() - block) * 8;
        let count = (page.end() - page.start()) * 8 / layout.refcount_width.bits();
        Ok(Some(Refcounts {
            first: cluster - in_block + bits / layout.refcount_width.bits(),
            count: usize::try_from(count).unwrap_or(usize::MAX),
            page,
        }))
    }

    fn set_refcount_in(&self, refcounts: &Refcounts, cluster: u64, refcount: u64) {
        let width = self.layout().refcount_width;
        let index = cluster - refcounts.first;
        let offset = refcounts.page.start() + width.byte_of(index);
        let len = width.bits().div_ceil(8);
        let index = usize::try_from(index).expect("within a page");
        let page = &refcounts.page;
        self.metadata
            .change(Stage::Refcounts, page, offset, len, |bytes| {
                width.set(bytes, index, refcount);
            });
    }

    fn refcount_in(&self, refcounts: &Refcounts, cluster: u64) -> u64 {
        let index = usize::try_from(cluster - refcounts.first).expect("within a page");
        let width = self.layout().refcount_width;
        refcounts.page.with(|bytes| width.get(bytes, index))
    }

    /// Makes a refcount block for `cluster`, in that very cluster: it is free, as is every cluster
    /// without a block. So a block counts itself, and no other is needed for it.
    async fn add_refcount_block(&self, cluster: u64) -> Result<(), Error> {
        let Some(entry_offset) = self.refcount_table_entry(cluster) else {
            return self.grow_refcount_table(cluster).await;
        };
        self.check_free(cluster, 1).await?;
        let layout = self.layout();
        let place = cluster << layout.cluster_bits..(cluster + 1) << layout.cluster_bits;
        self.growth.claim(place).await;
        let table = self.metadata.page(&self.storage, entry_offset).await?;
        let bytes = self.new_block(cluster, cluster, cluster + 1);
        let offset = cluster << layout.cluster_bits;
        let is_zero = self.free_space.hand_out(cluster..cluster + 1, layout);
        self.metadata.fresh(offset, &bytes, is_zero);
        self.metadata
            .set_word(Stage::RefcountTable, &table, entry_offset, offset);
        self.add_table(Kind::RefcountBlock, offset);
        Ok(())
    }

    /// A block for the clusters around `cluster`, of which those from `start` to `end` are in use.
    fn new_block(&self, cluster: u64, start: u64, end: u64) -> Vec<u8> {
        let layout = self.layout();
        let entries = layout.refcount_block_entries();
        let first = cluster - cluster % entries;
        let mut bytes = vec![0; usize::try_from(layout.cluster_bytes()).expect("at most 2 MiB")];
        for used in start.max(first)..end.min(first + entries) {
            let index = usize::try_from(used - first).expect("within a block");
            layout.refcount_width.set(&mut bytes, index, 1);
        }
        bytes
    }

    /// Takes back clusters that were allocated and to which nothing points. Those of a data file
    /// are nobody else's.
    pub(super) async fn unallocate(&self, allocation: Allocation) {
        if self.data_file.is_some() {
            return;
        }
        let layout = self.layout();
        let (offset, len) = (
            allocation.offset,
            allocation.clusters << layout.cluster_bits,
        );
        // If the host is full, what was written of them takes the space that metadata needs.
        if self.storage.discard(offset, len).await.is_ok() {
            self.flusher.changed();
        }
        if let Some(journal) = self.journal() {
            journal.detour.note_written(&(offset..offset + len));
        }
        let first = layout.cluster_index(offset);
        for cluster in first..first + allocation.clusters {
            if !self.free_space.unpin(cluster) {
                self.is_free(cluster);
            }
        }
    }

    /// The refcounts of the clusters that some bytes are in, ready to be changed without a wait.
    pub(super) async fn counts_of(
        &self,
        range: Option<(u64, u64)>,
    ) -> Result<Vec<(u64, Refcounts)>, Error> {
        let mut counts = Vec::new();
        let Some((offset, len)) = range else {
            return Ok(counts);
        };
        let layout = self.layout();
        for cluster in layout.cluster_index(offset)..layout.clusters_for(offset + len) {
            let Some(refcounts) = self.refcounts_of(cluster).await? else {
                return Err(self.uncounted(cluster).await);
            };
            counts.push((cluster, refcounts));
        }
        Ok(counts)
    }

    /// Counts a reference to each of these clusters, which were kept for it.
    pub(super) fn add_references(&self, counts: &[(u64, Refcounts)]) {
        for (cluster, refcounts) in counts {
            let refcount = self.refcount_in(refcounts, *cluster);
            let is_new =
                refcount == 0 || !mutant("compressed data in a shared cluster is not counted");
            if is_new {
                self.set_refcount_in(refcounts, *cluster, refcount + 1);
            }
            self.free_space.unpin(*cluster);
            self.free_space.let_go(*cluster);
        }
    }

    /// Drops a reference to each of these clusters, in the transaction that drops the pointer. Those
    /// that have none left are free only once it is durable: they are held, and returned with the
    /// number of this time.
    pub(super) fn drop_references_later(&self, counts: &[(u64, Refcounts)]) -> Vec<(u64, u64)> {
        let mut held = Vec::new();
        for (cluster, refcounts) in counts {
            let refcount = self.refcount_in(refcounts, *cluster).saturating_sub(1);
            self.set_refcount_in(refcounts, *cluster, refcount);
            if refcount == 0 {
                held.push((*cluster, self.free_space.hold(*cluster)));
            }
        }
        held
    }

    /// Whether what a transaction freed has not been used again.
    pub(super) fn is_held(&self, freed: &Freed) -> bool {
        let cluster = self.layout().cluster_index(freed.offset);
        let held = |number| self.free_space.is_held(cluster, number);
        freed.held.is_none_or(held) || mutant("held clusters are not told apart")
    }

    /// Clusters that were held have become free.
    pub(super) fn let_go(&self, offset: u64, len: u64) {
        let layout = self.layout();
        for cluster in layout.cluster_index(offset)..layout.clusters_for(offset + len) {
            self.free_space.let_go(cluster);
            if self.free_space.pins(cluster) == 0 {
                self.is_free(cluster);
            }
        }
    }

    async fn uncounted(&self, cluster: u64) -> Error {
        let problem = "the refcount of a cluster that was in use is 0".to_owned();
        self.damaged(cluster << self.layout().cluster_bits, problem)
            .await
    }

    /// Drops a reference to each cluster that the bytes are in. Whoever does must know that no
    /// pointer to them can come back after a power cut.
    pub(super) async fn drop_references(&self, offset: u64, len: u64) -> Result<(), Error> {
        let _turn = self.free_space.lock.all().await;
        for (cluster, refcounts) in self.counts_of(Some((offset, len))).await? {
            let refcount = self.refcount_in(&refcounts, cluster);
            if refcount == 0 {
                return Err(self.uncounted(cluster).await);
            }
            self.set_refcount_in(&refcounts, cluster, refcount - 1);
            if refcount == 1 && self.free_space.pins(cluster) == 0 {
                self.is_free(cluster);
            }
        }
        Ok(())
    }

    /// A cluster has become free.
    fn is_free(&self, cluster: u64) {
        self.kinds.borrow_mut().remove(&cluster);
        let layout = self.layout();
        self.decompressed
            .forget(cluster << layout.cluster_bits, layout.cluster_bytes());
        let space = &self.free_space;
        space.hint.set(space.hint.get().min(cluster));
        space.stop_packing(cluster, layout);
    }

    /// Keeps `len` bytes for compressed data, behind earlier ones if there is room: each use of a
    /// cluster counts as a reference.
    pub(super) async fn allocate_bytes(&self, len: u64) -> Result<u64, Error> {
        let layout = self.layout();
        let _turn = self.free_space.lock.all().await;
        if let Some(offset) = self.free_space.packed.get() {
            let room = offset.next_multiple_of(layout.cluster_bytes()) - offset;
            if len <= room && self.pin_shared(offset).await? {
                let end = offset + len;
                self.free_space.packed.set((len < room).then_some(end));
                return Ok(offset);
            }
        }
        let offset = self.allocate_in_turn(1).await?.offset;
        let fits = len < layout.cluster_bytes();
        self.free_space.packed.set(fits.then_some(offset + len));
        Ok(offset)
    }

    /// Keeps a cluster once more that others use or keep; false if it has as many users as can be
    /// counted, or none.
    pub(super) async fn pin_shared(&self, offset: u64) -> Result<bool, Error> {
        let layout = self.layout();
        let cluster = layout.cluster_index(offset);
        let Some(refcounts) = self.refcounts_of(cluster).await? else {
            return Ok(false);
        };
        let users = self.refcount_in(&refcounts, cluster) + self.free_space.pins(cluster);
        // Without any it is free, and may be another's soon.
        if users == 0 || users >= layout.refcount_width.max() {
            return Ok(false);
        }
        self.free_space.pin(cluster);
        Ok(true)
    }

    /// Gives back bytes that were kept for compressed data.
    pub(super) fn unpin_bytes(&self, offset: u64) {
        let layout = self.layout();
        let cluster = layout.cluster_index(offset);
        let space = &self.free_space;
        if !space.unpin(cluster) {
            // It may hold compressed data of others, or be free, and then another's soon.
            space.hint.set(space.hint.get().min(cluster));
            space.stop_packing(cluster, layout);
        }
    }
}
