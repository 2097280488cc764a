//! Writing the refcounts beside the old ones, and switching.

use std::collections::BTreeSet;

use super::{Rewrite, switch};
use crate::mutant::mutant;
use crate::qcow2::file;
use crate::qcow2::format::{Header, REFCOUNT_TABLE_BYTES_MAX};
use crate::{Error, Storage};

impl<S: Storage> Rewrite<'_, S> {
    /// Makes the change, and returns the image's header as it is now. The space of what is not
    /// needed any more goes back to the host; an end of the file that nothing uses is cut off.
    pub(crate) async fn commit(mut self) -> Result<Header, Error> {
        if !self.changed.is_empty() {
            let moved = self.place_refcounts()?;
            self.write_refcounts(&moved).await?;
        }
        if !mutant("a snapshot is switched to before it is durable") {
            self.storage.sync().await?;
        }
        switch(self.storage, &self.header).await?;
        self.give_back().await;
        Ok(self.header)
    }

    /// Gives back space. The change is made whether or not this is possible.
    async fn give_back(&self) {
        let bits = self.layout().cluster_bits;
        let end = self.counts.last().map_or(0, |last| last + 1);
        let mut run = 0..0;
        for (cluster, _) in self.freed.iter() {
            if self.counts.get(cluster) != 0 || cluster >= end {
                continue;
            }
            if cluster != run.end {
                self.discard(run.start << bits, run.end << bits).await;
                run.start = cluster;
            }
            run.end = cluster + 1;
        }
        self.discard(run.start << bits, run.end << bits).await;
        // What others have set aside behind stays.
        if self.freed.last() >= Some(end) && end << bits < self.storage.size_bytes() {
            // A block device keeps its size.
            let _ = self.storage.set_len(end << bits).await;
        }
    }

    async fn discard(&self, start: u64, end: u64) {
        if start < end {
            let _ = self.storage.discard(start, end - start).await;
        }
    }

    /// Finds room for the blocks that change and for the table. Doing so changes more blocks, so
    /// this goes on until it does not.
    fn place_refcounts(&mut self) -> Result<BTreeSet<u64>, Error> {
        let layout = self.layout();
        let mut moved = BTreeSet::new();
        let (old_table, old_bytes) = (
            self.header.refcount_table_offset,
            self.header.refcount_table_bytes(),
        );
        self.free(old_table, old_bytes)?;
        let mut table = None;
        loop {
            while let Some(index) = self.changed.difference(&moved).next().copied() {
                moved.insert(index);
                let block = self.allocate(layout.cluster_bytes())?;
                if let Some(old) = self.blocks.insert(index, block) {
                    self.free(old, layout.cluster_bytes())?;
                }
            }
            let last = self.blocks.keys().next_back().copied().unwrap_or(0);
            let bytes = ((last + 1) * 8).max(old_bytes);
            match table {
                Some((offset, room)) if bytes <= room => {
                    self.header.refcount_table_offset = offset;
                    return Ok(moved);
                }
                Some((offset, room)) => self.free(offset, room)?,
                None => {}
            }
            table = Some(self.allocate_table(bytes)?);
        }
    }

    fn allocate_table(&mut self, bytes: u64) -> Result<(u64, u64), Error> {
        let layout = self.layout();
        let clusters = layout.clusters_for(bytes);
        self.header.refcount_table_clusters = match u32::try_from(clusters) {
            Ok(clusters) if bytes <= REFCOUNT_TABLE_BYTES_MAX => clusters,
            _ => {
                let problem = "the refcount table would be larger than 8 MiB";
                return Err(self.unsupported(problem));
            }
        };
        let offset = self.allocate(bytes)?;
        Ok((offset, clusters << layout.cluster_bits))
    }

    async fn write_refcounts(&self, moved: &BTreeSet<u64>) -> Result<(), Error> {
        let layout = self.layout();
        let mut table = vec![0; file::len(self.header.refcount_table_bytes())];
        for (index, offset) in &self.blocks {
            let at = file::len(index * 8);
            table[at..at + 8].copy_from_slice(&offset.to_be_bytes());
        }
        for index in moved {
            if let Some(offset) = self.blocks.get(index) {
                let block = self.counts.block(layout, *index);
                file::write(self.storage, *offset, block).await?;
            }
        }
        file::write(self.storage, self.header.refcount_table_offset, table).await
    }
}
