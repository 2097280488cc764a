//! Reading and replacing the snapshot table.

use crate::qcow2::file;
use crate::qcow2::format::{FormatError, Header, SnapshotEntry};
use crate::qcow2::rewrite::Rewrite;
use crate::{Error, Storage};

/// QEMU's limit, and ours.
const TABLE_BYTES_MAX: u64 = 64 << 20;
/// What is read at once; more than an entry has.
const WINDOW_BYTES: u64 = 1 << 20;

/// Reads the snapshot table; also how many bytes it has.
pub(crate) async fn read_table(
    storage: &impl Storage,
    header: &Header,
) -> Result<(Vec<SnapshotEntry>, u64), Error> {
    let start = header.snapshots_offset;
    let entry_bytes_max = file::len(SnapshotEntry::table_bytes_max(1));
    let mut snapshots = Vec::new();
    let mut window = Vec::new();
    // Where the window starts in the file, and where the next entry is in the window.
    let (mut window_at, mut at) = (start, 0);
    for _ in 0..header.snapshots {
        if window.len() - at < entry_bytes_max {
            window_at += at as u64;
            window = file::read(storage, window_at, window_len(storage, window_at)).await?;
            at = 0;
        }
        let offset = window_at + at as u64;
        let (entry, len) = SnapshotEntry::parse(offset, window.get(at..).unwrap_or_default())
            .map_err(FormatError::at(storage.path()))?;
        at += len;
        snapshots.push(entry);
        if window_at + at as u64 - start > TABLE_BYTES_MAX {
            let error = FormatError::unsupported(start, "the snapshot table exceeds 64 MiB");
            return Err(FormatError::at(storage.path())(error));
        }
    }
    Ok((snapshots, window_at + at as u64 - start))
}

/// How much to read: not past the end of the file, which may end within the padding of an entry.
fn window_len(storage: &impl Storage, at: u64) -> usize {
    let left = storage.size_bytes().saturating_sub(at);
    file::len(left.next_multiple_of(8).min(WINDOW_BYTES))
}

/// Makes `snapshots` the image's.
pub(super) async fn replace<S: Storage>(
    rewrite: &mut Rewrite<'_, S>,
    snapshots: &[SnapshotEntry],
) -> Result<(), Error> {
    let (storage, header) = (rewrite.storage(), rewrite.header.clone());
    let (_, old_bytes) = read_table(storage, &header).await?;
    rewrite.free(header.snapshots_offset, old_bytes)?;
    let bytes: Vec<u8> = snapshots
        .iter()
        .flat_map(|snapshot| snapshot.encode(header.size_bytes))
        .collect();
    if bytes.len() as u64 > TABLE_BYTES_MAX {
        return Err(rewrite.unsupported("the snapshot table would exceed 64 MiB"));
    }
    rewrite.header.snapshots_offset = if bytes.is_empty() {
        0
    } else {
        rewrite.write_fresh(bytes).await?
    };
    rewrite.header.snapshots =
        u32::try_from(snapshots.len()).map_err(|_| rewrite.unsupported("too many snapshots"))?;
    Ok(())
}
