//! Clusters for what is new, and references to those that there are.

use super::Rewrite;
use crate::qcow2::file;
use crate::{Error, Storage};

/// Offsets have bits up to 55.
const OFFSET_BITS: u32 = 56;

impl<S: Storage> Rewrite<'_, S> {
    /// Finds room for `bytes`, which is not 0, in clusters that were free, and refers to them.
    pub(crate) fn allocate(&mut self, bytes: u64) -> Result<u64, Error> {
        let layout = self.layout();
        let wanted = layout.clusters_for(bytes);
        let limit = 1 << (OFFSET_BITS - layout.cluster_bits);
        let mut start = self.next_free;
        let mut end = start;
        while end - start < wanted {
            if end >= limit {
                return Err(self.unsupported("the file would be too large"));
            }
            let free = self.counts.get(end) == 0 && self.freed.get(end) == 0;
            end += 1;
            if !free {
                start = end;
            }
        }
        if start == self.next_free || wanted == 1 {
            self.next_free = end;
        }
        for cluster in start..end {
            self.set_count(cluster, 1);
        }
        Ok(start << layout.cluster_bits)
    }

    /// Writes `bytes` to clusters of their own, and says where.
    pub(crate) async fn write_fresh(&mut self, mut bytes: Vec<u8>) -> Result<u64, Error> {
        let len = bytes.len() as u64;
        let offset = self.allocate(len)?;
        let whole = len.next_multiple_of(self.layout().cluster_bytes());
        bytes.resize(file::len(whole), 0);
        file::write(self.storage, offset, bytes).await?;
        Ok(offset)
    }

    /// Lets go of `bytes` at `offset`.
    pub(crate) fn free(&mut self, offset: u64, bytes: u64) -> Result<(), Error> {
        let layout = self.layout();
        let first = layout.cluster_index(offset);
        for cluster in first..first + layout.clusters_for(bytes) {
            self.decrease(cluster, 1)?;
        }
        Ok(())
    }

    /// Takes `holders` references from a cluster.
    pub(crate) fn decrease(&mut self, cluster: u64, holders: u64) -> Result<(), Error> {
        let Some(count) = self.counts.get(cluster).checked_sub(holders) else {
            let offset = cluster << self.layout().cluster_bits;
            return Err(self.damaged(offset, "a cluster has fewer references than it should"));
        };
        if count == 0 {
            self.freed.set(cluster, 1);
        }
        self.is_unsettled |= count == 1;
        self.set_count(cluster, count);
        Ok(())
    }

    /// Refers to a cluster once more.
    pub(crate) fn increase(&mut self, cluster: u64) -> Result<(), Error> {
        let width = self.layout().refcount_width;
        let count = self.counts.get(cluster);
        if count >= width.max() {
            let bits = width.bits();
            return Err(self.unsupported(format!(
                "refcounts of {bits} bits cannot count so many snapshots; \
                 delete one, or convert the image to wider refcounts"
            )));
        }
        self.set_count(cluster, count + 1);
        Ok(())
    }

    pub(super) fn count(&self, cluster: u64) -> u64 {
        self.counts.get(cluster)
    }

    pub(super) fn set_count(&mut self, cluster: u64, count: u64) {
        self.counts.set(cluster, count);
        let block = cluster / self.layout().refcount_block_entries();
        self.changed.insert(block);
    }
}
