//! The refcounts as the image records them, and whether they are right.

use std::collections::BTreeMap;

use super::metadata::Kind;
use super::pass::Pass;
use crate::qcow2::counts::Counts;
use crate::qcow2::file;
use crate::{Error, Storage};

/// Refcount table entries have their offset in bits 9 to 63.
const RESERVED: u64 = 0x1FF;

/// What refcount blocks say.
#[derive(Default)]
pub(super) struct Recorded {
    pub(super) counts: Counts,
    /// Where the blocks are, by their index in the refcount table.
    pub(super) blocks: BTreeMap<u64, u64>,
    /// Whether the structure is damaged, so that nothing may be written into it.
    pub(super) damaged: bool,
}

impl<S: Storage> Pass<'_, S> {
    /// Reads the refcounts.
    pub(super) async fn load_refcounts(&mut self) -> Result<(), Error> {
        let offset = self.header.refcount_table_offset;
        let bytes = self.header.refcount_table_bytes();
        if !self.claim_table(Kind::RefcountTable, offset, bytes)? {
            self.recorded.damaged = true;
        }
        file::for_each_word(self.storage, offset, bytes / 8, |index, entry| {
            self.refcount_table_entry(offset + index * 8, index, entry);
        })
        .await?;
        let blocks: Vec<_> = self.recorded.blocks.clone().into_iter().collect();
        let layout = self.layout();
        for (index, block) in blocks {
            let counts = &mut self.recorded.counts;
            counts
                .load_block(self.storage, layout, index, block)
                .await?;
        }
        Ok(())
    }

    fn refcount_table_entry(&mut self, at: u64, index: u64, entry: u64) {
        let block = entry & !RESERVED;
        if entry & RESERVED != 0 {
            let problem = "a refcount table entry has reserved bits set";
            self.report.corruption(at, problem);
            self.recorded.damaged = true;
        }
        if block == 0 {
            return;
        }
        match self.claim(Kind::RefcountBlock, block, self.layout().cluster_bytes()) {
            Ok(()) => {
                self.recorded.blocks.insert(index, block);
            }
            Err(misplaced) => {
                let problem = misplaced.problem("a refcount block");
                self.report.corruption(at, problem);
                self.recorded.damaged = true;
            }
        }
    }

    /// Finds refcounts that are wrong.
    pub(super) fn compare_refcounts(&mut self) {
        let layout = self.layout();
        let offset_of = |cluster: u64| cluster.saturating_mul(layout.cluster_bytes());
        let recorded = &self.recorded.counts;
        for (cluster, references) in self.computed.iter() {
            let refcount = recorded.get(cluster);
            if refcount == references {
                continue;
            }
            let problem = format!("a cluster has refcount {refcount}, but {references} references");
            if refcount < references {
                self.report.corruption(offset_of(cluster), problem);
            } else {
                self.report.leak(offset_of(cluster), problem);
            }
        }
        // What lies past the end of the file takes no space, and harms nobody.
        let clusters = layout.clusters_for(self.storage.size_bytes());
        for (cluster, refcount) in recorded.iter().take_while(|(c, _)| *c < clusters) {
            if self.computed.get(cluster) == 0 {
                let problem = format!("a cluster has refcount {refcount}, but no references");
                self.report.leak(offset_of(cluster), problem);
            }
        }
        let used = recorded.iter().take_while(|(c, _)| *c < clusters).last();
        let last = self.computed.last().max(used.map(|(cluster, _)| cluster));
        self.report.image_end_offset = last.map_or(0, |last| offset_of(last + 1));
    }
}
