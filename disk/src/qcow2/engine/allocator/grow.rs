//! Moving the refcount table to a larger place.

use crate::mutant::mutant;
use crate::qcow2::engine::image::{Image, Kind};
use crate::qcow2::engine::transaction::Freed;
use crate::qcow2::file;
use crate::qcow2::format::{Header, REFCOUNT_TABLE_BYTES_MAX};
use crate::{Error, Storage};

impl<S: Storage> Image<S> {
    /// Moves the refcount table to a larger place, that starts at `cluster`, which no block covers
    /// yet, with the blocks it needs for itself. Rare: it is made durable at once, as what follows
    /// needs it.
    pub(super) async fn grow_refcount_table(&self, cluster: u64) -> Result<(), Error> {
        self.commit_all().await?;
        let layout = self.layout();
        let header = self.header.borrow().clone();
        let entries = layout.refcount_block_entries();
        let old_bytes = header.refcount_table_bytes();
        let (mut table_clusters, mut blocks) = (1, 1);
        // Each round needs more for the table itself: soon it is enough.
        loop {
            let end = cluster + table_clusters + blocks;
            let table_bytes = (end.div_ceil(entries) * 8).max(old_bytes * 3 / 2);
            let table_needed = layout.clusters_for(table_bytes);
            let blocks_needed = end.div_ceil(entries) - cluster / entries;
            if table_needed <= table_clusters && blocks_needed <= blocks {
                break;
            }
            table_clusters = table_clusters.max(table_needed);
            blocks = blocks.max(blocks_needed);
        }
        let table_bytes = table_clusters << layout.cluster_bits;
        if table_bytes > REFCOUNT_TABLE_BYTES_MAX {
            return Err(self.cannot_grow());
        }
        let end = cluster + table_clusters + blocks;
        self.check_free(cluster, end - cluster).await?;
        let untouched = self.free_space.untouched.get();
        self.free_space.untouched.set(untouched.max(end));
        let place = (cluster, table_clusters, blocks);
        let table = self.write_refcount_table(&header, place).await?;
        self.switch_refcount_table(&header, table, table_clusters)
            .await?;
        for n in 0..table_clusters {
            self.add_table(Kind::RefcountTable, table + (n << layout.cluster_bits));
        }
        for n in table_clusters..table_clusters + blocks {
            self.add_table(Kind::RefcountBlock, table + (n << layout.cluster_bits));
        }
        Ok(())
    }

    /// Writes the new table, and its own blocks behind it. Returns where it is.
    async fn write_refcount_table(
        &self,
        header: &Header,
        (cluster, table_clusters, blocks): (u64, u64, u64),
    ) -> Result<u64, Error> {
        let layout = header.layout;
        let end = cluster + table_clusters + blocks;
        let len = |bytes: u64| usize::try_from(bytes).expect("at most 8 MiB");
        let old_bytes = len(header.refcount_table_bytes());
        let mut table = file::read(&self.storage, header.refcount_table_offset, old_bytes).await?;
        table.resize(len(table_clusters << layout.cluster_bits), 0);
        let entries = layout.refcount_block_entries();
        for n in 0..blocks {
            let block_cluster = cluster + table_clusters + n;
            let offset = block_cluster << layout.cluster_bits;
            let index = len((cluster / entries + n) * 8);
            table[index..index + 8].copy_from_slice(&offset.to_be_bytes());
            let covered = (cluster / entries + n) * entries;
            let bytes = self.new_block(covered, cluster, end);
            if !mutant("the refcount table grows without its blocks") {
                file::write(&self.storage, offset, bytes).await?;
            }
        }
        let offset = cluster << layout.cluster_bits;
        file::write(&self.storage, offset, table).await?;
        self.flusher.changed();
        self.flusher.flush(&self.storage).await?;
        Ok(offset)
    }

    /// Makes the header point to the new refcount table; both fields are in one sector.
    async fn switch_refcount_table(
        &self,
        header: &Header,
        offset: u64,
        clusters: u64,
    ) -> Result<(), Error> {
        let clusters = u32::try_from(clusters).expect("at most 8 MiB");
        let fields = [&offset.to_be_bytes()[..], &clusters.to_be_bytes()].concat();
        // Where it fails, nobody knows which table is the image's.
        file::write(&self.storage, Header::REFCOUNT_TABLE_OFFSET, fields)
            .await
            .inspect_err(|_| self.flusher.fail())?;
        self.flusher.changed();
        self.flusher.flush(&self.storage).await?;
        let (old, old_bytes) = (header.refcount_table_offset, header.refcount_table_bytes());
        {
            let mut header = self.header.borrow_mut();
            header.refcount_table_offset = offset;
            header.refcount_table_clusters = clusters;
        }
        self.metadata.free(Freed {
            offset: old,
            len: old_bytes,
            give_back: false,
        });
        Ok(())
    }
}
