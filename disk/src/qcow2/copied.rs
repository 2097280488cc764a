//! The flag COPIED of clusters that were shared and are not any more. Part "Standard Cluster
//! Descriptor" of the specification: it is set exactly where the refcount is one.
//!
//! While it is not set, nothing is lost: a write goes to a new cluster. So it need not be right at
//! once, but when the image is an ordinary one again.

use std::collections::{BTreeMap, BTreeSet};

use super::counts::Counts;
use super::file;
use super::format::{Cluster, Header, L1Entry, L2Entry, Layout};
use crate::{Error, Storage};

/// What is written at once.
const SECTOR_BYTES: usize = 512;

/// Sets the flag in all entries of the disk's own L2 tables whose clusters have one reference. All
/// that the header leads to is in its place. Each entry may be set or not after a power cut. Tables
/// that are not where they can be are left to a check.
pub(crate) async fn settle(storage: &impl Storage, header: &Header) -> Result<(), Error> {
    if header.has_data_file() {
        return Ok(());
    }
    let layout = header.layout;
    let counts = refcounts(storage, header).await?;
    for table in own_tables(storage, header).await? {
        if layout.is_aligned(table) && table < storage.size_bytes() {
            settle_table(storage, layout, table, &counts).await?;
        }
    }
    Ok(())
}

/// Where the disk's own L2 tables are. A damaged image may lead to one from everywhere.
async fn own_tables(storage: &impl Storage, header: &Header) -> Result<BTreeSet<u64>, Error> {
    let mut tables = BTreeSet::new();
    let entries = header.l1_entries.into();
    file::for_each_word(storage, header.l1_offset, entries, |_, word| {
        let entry = L1Entry(word);
        // Who shares a table shares all that is in it.
        tables.extend(entry.table_offset().filter(|_| entry.is_copied()));
    })
    .await?;
    Ok(tables)
}

async fn refcounts(storage: &impl Storage, header: &Header) -> Result<Counts, Error> {
    let (offset, words) = (
        header.refcount_table_offset,
        header.refcount_table_bytes() / 8,
    );
    let layout = header.layout;
    let clusters = layout.clusters_for(storage.size_bytes());
    // A damaged image may lead to one block from everywhere, and count what no file has.
    let mut blocks = BTreeMap::new();
    file::for_each_word(storage, offset, words, |index, block| {
        if index * layout.refcount_block_entries() < clusters {
            blocks.entry(block).or_insert(index);
        }
    })
    .await?;
    let mut counts = Counts::default();
    for (block, index) in blocks {
        if layout.is_aligned(block) && block < storage.size_bytes() {
            counts.load_block(storage, layout, index, block).await?;
        }
    }
    Ok(counts)
}

async fn settle_table(
    storage: &impl Storage,
    layout: Layout,
    table: u64,
    counts: &Counts,
) -> Result<(), Error> {
    let mut bytes = file::read(storage, table, file::len(layout.cluster_bytes())).await?;
    for (sector, at) in bytes
        .chunks_mut(SECTOR_BYTES)
        .zip((table..).step_by(SECTOR_BYTES))
    {
        if settle_sector(sector, layout, counts) {
            file::write(storage, at, sector.to_vec()).await?;
        }
    }
    Ok(())
}

/// Whether anything was changed.
fn settle_sector(sector: &mut [u8], layout: Layout, counts: &Counts) -> bool {
    let mut any = false;
    for bytes in sector.chunks_exact_mut(file::len(layout.l2_entry_bytes())) {
        let word = |n: usize| match bytes.get(n..n + 8).map(<[u8; 8]>::try_from) {
            Some(Ok(word)) => u64::from_be_bytes(word),
            _ => 0,
        };
        let entry = L2Entry {
            descriptor: word(0),
            bitmap: word(8),
        };
        let Cluster::Standard {
            host: Some(host),
            copied: false,
            subclusters,
        } = entry.decode(layout, false)
        else {
            continue;
        };
        if counts.get(layout.cluster_index(host)) != 1 {
            continue;
        }
        let settled = Cluster::Standard {
            host: Some(host),
            copied: true,
            subclusters,
        };
        let settled = L2Entry::encode(settled, layout);
        bytes[..8].copy_from_slice(&settled.descriptor.to_be_bytes());
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::CreateOptions;
    use crate::qcow2::samples::{executor, fill, image};

    /// Recovery goes through these before anybody has looked at the image, which may say that one
    /// block or table is everywhere.
    #[test]
    fn what_is_read_is_bounded_by_the_file() {
        executor().run(async {
            let mut options = CreateOptions::new(4 << 30);
            (options.cluster_bits, options.refcount_bits) = (12, 1);
            let storage = image(&options).await;
            fill(&storage, &[(0, 8, 1)]).await;
            let header = file::read_header(&storage).await.unwrap();
            let spread = async |table, words| {
                let word = file::read(&storage, table, 8).await.unwrap();
                file::write(&storage, table, word.repeat(words))
                    .await
                    .unwrap();
            };
            spread(header.refcount_table_offset, 512).await;
            spread(header.l1_offset, 2048).await;
            let counts = refcounts(&storage, &header).await.unwrap();
            let last = header.layout.refcount_block_entries() - 1;
            assert!(counts.last() <= Some(last), "{:?}", counts.last());
            assert_eq!(own_tables(&storage, &header).await.unwrap().len(), 1);
        });
    }
}
