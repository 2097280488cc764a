//! Changing the size of the disk, in an image that nobody uses.

use super::bitmap::{self, Bitmaps};
use super::file;
use super::format::{Cluster, Header, L1Entry, L2Entry, Subclusters};
use super::rewrite::{Change, Rewrite};
use crate::request::SECTOR_BYTES;
use crate::{Error, Storage};

/// Makes the disk `size_bytes` long, rounded up to whole sectors. What is added reads as zeros,
/// given that what is behind the disk's end in its last cluster does; what is cut off is lost.
/// `backing_bytes` is the size of the backing file. Returns the image's header as it is then.
pub(crate) async fn resize(
    storage: &impl Storage,
    header: &Header,
    size_bytes: u64,
    backing_bytes: u64,
) -> Result<Header, Error> {
    let size_bytes = check_size(header, size_bytes).map_err(|problem| Error::Unsupported {
        path: storage.path().to_owned(),
        problem,
    })?;
    if size_bytes == header.size_bytes {
        return Ok(header.clone());
    }
    // Also a bitmap that is not kept up has the size of the disk.
    let header = &bitmap::mark_in_use(storage, header, Bitmaps::All).await?;
    let mut rewrite = Rewrite::begin(storage, header).await?;
    let mut l1 = rewrite.read_l1(header.l1_offset, header.l1_entries).await?;
    rewrite.header.size_bytes = size_bytes;
    // Behind the disk's end there may also be the state of a VM that was restored.
    let kept = size_bytes.min(header.size_bytes);
    let changed = cut(&mut rewrite, &mut l1, kept).await?;
    if rewrite.is_unsettled {
        // Of clusters that were shared, one part may be cut off.
        rewrite.settle_copied(&mut l1, 1).await?;
    }
    rewrite.fit_l1(&mut l1)?;
    let hidden = header.size_bytes..size_bytes.min(backing_bytes);
    let hidden = hide_backing(&mut rewrite, &mut l1, hidden).await?;
    if changed || hidden || l1.len() as u64 > u64::from(header.l1_entries) {
        rewrite.replace_l1(&l1).await?;
    }
    rewrite.commit().await
}

fn check_size(header: &Header, size_bytes: u64) -> Result<u64, String> {
    if header.version < 3 && header.snapshots > 0 {
        return Err("snapshots of version 2 do not know their size, so it must stay; delete them, or convert the image to version 3".into());
    }
    size_bytes
        .checked_next_multiple_of(SECTOR_BYTES)
        .filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| "a disk is smaller than 8 EiB".into())
}

/// Drops what lies behind `size_bytes`. Whether there was anything.
async fn cut<S: Storage>(
    rewrite: &mut Rewrite<'_, S>,
    l1: &mut Vec<L1Entry>,
    size_bytes: u64,
) -> Result<bool, Error> {
    let layout = rewrite.layout();
    let needed = file::len(layout.l1_entries_for(size_bytes));
    let tail = l1.split_off(needed.min(l1.len()));
    rewrite.count_tree(&tail, Change::Remove).await?;
    let mut any = tail.iter().any(|entry| entry.table_offset().is_some());
    let clusters = layout.clusters_for(size_bytes);
    let first = clusters % layout.l2_entries();
    if first > 0
        && let Some(entry) = l1.get_mut(needed - 1)
        && let Some(table) = entry.table_offset()
    {
        let mut entries = rewrite.read_l2(table).await?;
        let dropped = entries.split_off(file::len(first));
        if dropped.iter().any(|entry| *entry != L2Entry::default()) {
            for entry in dropped {
                let hosts = rewrite.host_clusters(entry)?;
                rewrite.count_all(hosts, Change::Remove)?;
            }
            entries.resize(file::len(layout.l2_entries()), L2Entry::default());
            *entry = rewrite.replace_l2(Some(table), &entries).await?;
            any = true;
        }
    }
    Ok(any)
}

/// Keeps what a longer backing file has in a range from being seen. The range starts in a cluster
/// that needs nothing. Whether there was anything to do.
async fn hide_backing<S: Storage>(
    rewrite: &mut Rewrite<'_, S>,
    l1: &mut [L1Entry],
    range: std::ops::Range<u64>,
) -> Result<bool, Error> {
    let layout = rewrite.layout();
    let clusters = layout.clusters_for(range.start)..layout.clusters_for(range.end);
    if clusters.is_empty() {
        return Ok(false);
    }
    if rewrite.header.version < 3 {
        return Err(rewrite.unsupported(
            "its backing file is longer, and version 2 cannot hide that; \
             convert the image to version 3",
        ));
    }
    let zero = L2Entry::encode(zero_cluster(layout.subclusters()), layout);
    let mut at = clusters.start;
    while at < clusters.end {
        let table_end = (at / layout.l2_entries() + 1) * layout.l2_entries();
        let end = table_end.min(clusters.end);
        let entry = &mut l1[file::len(at / layout.l2_entries())];
        let table = entry.table_offset();
        let mut entries = match table {
            Some(table) => rewrite.read_l2(table).await?,
            None => vec![L2Entry::default(); file::len(layout.l2_entries())],
        };
        let first = file::len(at % layout.l2_entries());
        entries[first..first + file::len(end - at)].fill(zero);
        *entry = rewrite.replace_l2(table, &entries).await?;
        at = end;
    }
    Ok(true)
}

fn zero_cluster(subclusters: u32) -> Cluster {
    Cluster::Standard {
        host: None,
        copied: false,
        subclusters: Subclusters {
            allocated: 0,
            zero: u32::MAX >> (32 - subclusters),
        },
    }
}

#[cfg(test)]
mod tests;
