//! All that hangs on an L1 table.

use std::ops::Range;

use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::U64;

use super::Rewrite;
use crate::qcow2::file;
use crate::qcow2::format::{Cluster, L1_BYTES_MAX, L1Entry, L2Entry};
use crate::{Error, Storage};

/// What happens to the references of an L1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// There is one more that has them.
    Add,
    /// It goes away.
    Remove,
}

impl<S: Storage> Rewrite<'_, S> {
    /// Reads an L1 table.
    pub(crate) async fn read_l1(&self, offset: u64, entries: u32) -> Result<Vec<L1Entry>, Error> {
        let bytes = u64::from(entries) * 8;
        let end = offset.checked_add(bytes);
        let within = end.is_some_and(|end| {
            let cluster_bytes = self.layout().cluster_bytes();
            end <= self.storage.size_bytes().next_multiple_of(cluster_bytes)
        });
        if bytes > L1_BYTES_MAX || !within || !self.layout().is_aligned(offset) {
            return Err(self.damaged(offset, "an L1 table is too large or not within the file"));
        }
        let mut table = vec![L1Entry(0); file::len(entries.into())];
        file::for_each_word(self.storage, offset, entries.into(), |index, word| {
            table[file::len(index)] = L1Entry(word);
        })
        .await?;
        Ok(table)
    }

    /// Writes an L1 table beside the others. One without entries is nowhere.
    pub(crate) async fn write_l1(&mut self, table: &[L1Entry]) -> Result<u64, Error> {
        if table.is_empty() {
            return Ok(0);
        }
        let bytes = table.iter().flat_map(|entry| entry.0.to_be_bytes());
        self.write_fresh(bytes.collect()).await
    }

    /// Lengthens an L1 table to what the disk's size needs.
    pub(crate) fn fit_l1(&self, table: &mut Vec<L1Entry>) -> Result<(), Error> {
        let needed = self.layout().l1_entries_for(self.header.size_bytes);
        if needed * 8 > L1_BYTES_MAX {
            return Err(self.unsupported("the disk would be too large for its cluster size"));
        }
        if table.len() < file::len(needed) {
            table.resize(file::len(needed), L1Entry(0));
        }
        Ok(())
    }

    /// Makes `table` the disk's L1 table.
    pub(crate) async fn replace_l1(&mut self, table: &[L1Entry]) -> Result<(), Error> {
        self.free(self.header.l1_offset, self.header.l1_bytes())?;
        self.header.l1_offset = self.write_l1(table).await?;
        self.header.l1_entries = u32::try_from(table.len())
            .map_err(|_| self.unsupported("the L1 table would be too large"))?;
        Ok(())
    }

    /// Reads an L2 table.
    pub(crate) async fn read_l2(&self, table: u64) -> Result<Vec<L2Entry>, Error> {
        self.check_table(table, table, "an L2 table")?;
        let layout = self.layout();
        let bytes = file::read(self.storage, table, file::len(layout.cluster_bytes())).await?;
        let word = |bytes: Option<&[u8]>| {
            bytes.map_or(0, |bytes| U64::ref_from_bytes(bytes).map_or(0, |w| w.get()))
        };
        let entries = bytes.chunks_exact(file::len(layout.l2_entry_bytes()));
        Ok(entries
            .map(|entry| L2Entry {
                descriptor: word(entry.get(..8)),
                bitmap: word(entry.get(8..16)),
            })
            .collect())
    }

    /// Writes an L2 table beside the others.
    pub(crate) async fn write_l2(&mut self, entries: &[L2Entry]) -> Result<u64, Error> {
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.extend_from_slice(&entry.descriptor.to_be_bytes());
            if self.layout().extended_l2 {
                bytes.extend_from_slice(&entry.bitmap.to_be_bytes());
            }
        }
        self.write_fresh(bytes).await
    }

    /// Makes `entries` the disk's instead of those in `table`, which others may keep. Returns the
    /// L1 entry that leads to them.
    pub(crate) async fn replace_l2(
        &mut self,
        table: Option<u64>,
        entries: &[L2Entry],
    ) -> Result<L1Entry, Error> {
        if let Some(table) = table {
            self.decrease(self.layout().cluster_index(table), 1)?;
        }
        Ok(L1Entry::new(self.write_l2(entries).await?, true))
    }

    /// The clusters of this file that an entry refers to.
    pub(crate) fn host_clusters(&self, entry: L2Entry) -> Result<Range<u64>, Error> {
        let layout = self.layout();
        let data_file = self.header.has_data_file();
        let cluster = entry.decode(layout, data_file);
        if data_file && matches!(cluster, Cluster::Standard { .. }) {
            return Ok(0..0);
        }
        match cluster.host_range(layout) {
            Some((offset, bytes)) if offset < self.storage.size_bytes() => {
                Ok(layout.cluster_index(offset)..layout.clusters_for(offset + bytes))
            }
            Some((offset, _)) => Err(self.damaged(offset, "data is not within the file")),
            None => Ok(0..0),
        }
    }

    /// Counts the references of all that hangs on an L1 table once more, or once less.
    pub(crate) async fn count_tree(
        &mut self,
        table: &[L1Entry],
        change: Change,
    ) -> Result<(), Error> {
        for l2 in table.iter().filter_map(|entry| entry.table_offset()) {
            let entries = self.read_l2(l2).await?.into_iter();
            for entry in entries.filter(|entry| *entry != L2Entry::default()) {
                self.count_all(self.host_clusters(entry)?, change)?;
            }
            let cluster = self.layout().cluster_index(l2);
            self.count_all(cluster..cluster + 1, change)?;
        }
        Ok(())
    }

    pub(crate) fn count_all(&mut self, clusters: Range<u64>, change: Change) -> Result<(), Error> {
        for cluster in clusters {
            match change {
                Change::Add => self.increase(cluster)?,
                Change::Remove => self.decrease(cluster, 1)?,
            }
        }
        Ok(())
    }

    /// Makes the COPIED flags of a tree those that follow from the refcounts. L2 tables in which
    /// one is wrong are written anew for the `holders` of the tree, and the table leads to those.
    pub(crate) async fn settle_copied(
        &mut self,
        table: &mut [L1Entry],
        holders: u64,
    ) -> Result<(), Error> {
        for l1_entry in table {
            let Some(mut l2) = l1_entry.table_offset() else {
                *l1_entry = L1Entry(0);
                continue;
            };
            let mut entries = self.read_l2(l2).await?;
            if self.settle_entries(&mut entries) {
                let fresh = self.write_l2(&entries).await?;
                self.decrease(self.layout().cluster_index(l2), holders)?;
                self.set_count(self.layout().cluster_index(fresh), holders);
                l2 = fresh;
            }
            let copied = self.count(self.layout().cluster_index(l2)) == 1;
            *l1_entry = L1Entry::new(l2, copied);
        }
        Ok(())
    }

    /// Corrects COPIED flags; whether one was wrong.
    fn settle_entries(&self, entries: &mut [L2Entry]) -> bool {
        let layout = self.layout();
        let data_file = self.header.has_data_file();
        let mut any = false;
        for entry in entries {
            let Cluster::Standard {
                host: Some(host),
                copied,
                subclusters,
            } = entry.decode(layout, data_file)
            else {
                continue;
            };
            let right = data_file || self.count(layout.cluster_index(host)) == 1;
            if right != copied {
                let cluster = Cluster::Standard {
                    host: Some(host),
                    copied: right,
                    subclusters,
                };
                *entry = L2Entry::encode(cluster, layout);
                any = true;
            }
        }
        any
    }
}
