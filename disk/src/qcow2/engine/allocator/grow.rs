//! Moving the refcount table to a larger place.

use std::iter;

use crate::journal::Journaled as _;
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
    ///
    /// A journal makes it a transaction like any other.
    pub(super) async fn grow_refcount_table(&self, cluster: u64) -> Result<(), Error> {
        if self.journal().is_none() {
            self.commit_all().await?;
        }
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
        let reserved = self.free_space.reserved();
        if cluster < reserved.end && reserved.start < end {
            return Box::pin(self.grow_refcount_table(reserved.end)).await;
        }
        self.check_free(cluster, end - cluster).await?;
        let is_zero = self.free_space.hand_out(cluster..end, layout);
        self.growth
            .claim(cluster << layout.cluster_bits..end << layout.cluster_bits)
            .await;
        let place = (cluster, table_clusters, blocks);
        let table = cluster << layout.cluster_bits;
        let (content, blocks_content) = self.new_refcount_table(&header, place).await?;
        if self.journal().is_some() {
            self.note_refcount_table(&header, table, content, blocks_content, is_zero)
                .await?;
        } else {
            self.write_refcount_table(table, content, blocks_content)
                .await?;
            self.switch_refcount_table(&header, table, table_clusters)
                .await?;
        }
        for n in 0..table_clusters {
            self.add_table(Kind::RefcountTable, table + (n << layout.cluster_bits));
        }
        for n in table_clusters..table_clusters + blocks {
            self.add_table(Kind::RefcountBlock, table + (n << layout.cluster_bits));
        }
        Ok(())
    }

    /// The content of the new table and of its own blocks behind it.
    async fn new_refcount_table(
        &self,
        header: &Header,
        (cluster, table_clusters, blocks): (u64, u64, u64),
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), Error> {
        let layout = header.layout;
        let end = cluster + table_clusters + blocks;
        let old = header.refcount_table_offset;
        let old = old..old + header.refcount_table_bytes();
        let mut table = Vec::new();
        while old.start + (table.len() as u64) < old.end {
            let at = old.start + table.len() as u64;
            let page = self.metadata.page(&self.storage, at).await?;
            page.with(|bytes| table.extend_from_slice(bytes));
        }
        table.resize(file::len(table_clusters << layout.cluster_bits), 0);
        let entries = layout.refcount_block_entries();
        let mut content = Vec::new();
        for n in 0..blocks {
            let offset = (cluster + table_clusters + n) << layout.cluster_bits;
            let index = file::len((cluster / entries + n) * 8);
            table[index..index + 8].copy_from_slice(&offset.to_be_bytes());
            let covered = (cluster / entries + n) * entries;
            content.push(self.new_block(covered, cluster, end));
        }
        Ok((table, content))
    }

    /// Writes the new table and its blocks, durably.
    async fn write_refcount_table(
        &self,
        offset: u64,
        table: Vec<u8>,
        blocks: Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        let mut at = offset + table.len() as u64;
        for block in blocks {
            let len = block.len() as u64;
            if !mutant("the refcount table grows without its blocks") {
                file::write(&self.storage, at, block).await?;
            }
            at += len;
        }
        file::write(&self.storage, offset, table).await?;
        self.flusher.changed();
        self.flusher.flush(&self.storage).await
    }

    /// Makes the new table, its blocks and the header's pointer to it a part of the transaction.
    async fn note_refcount_table(
        &self,
        header: &Header,
        offset: u64,
        table: Vec<u8>,
        blocks: Vec<Vec<u8>>,
        is_zero: bool,
    ) -> Result<(), Error> {
        let dropped = self
            .prepare_drop(Some(Freed {
                offset: header.refcount_table_offset,
                len: header.refcount_table_bytes(),
                give_back: false,
                held: None,
            }))
            .await?;
        self.make_room().await?;
        // From here on nothing waits: it is one transaction.
        let clusters = header.layout.clusters_for(table.len() as u64);
        let clusters = u32::try_from(clusters).expect("at most 8 MiB");
        let mut at = offset;
        for content in iter::once(table).chain(blocks) {
            self.metadata.fresh(at, &content, is_zero);
            at += content.len() as u64;
        }
        // The number of snapshots is in the second word too.
        let words = [
            &offset.to_be_bytes()[..],
            &clusters.to_be_bytes(),
            &header.snapshots.to_be_bytes(),
        ];
        self.metadata
            .set_header(Header::REFCOUNT_TABLE_OFFSET, words.concat());
        {
            let mut header = self.header.borrow_mut();
            header.refcount_table_offset = offset;
            header.refcount_table_clusters = clusters;
        }
        self.drop_prepared(dropped);
        Ok(())
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
            held: None,
        });
        Ok(())
    }
}
