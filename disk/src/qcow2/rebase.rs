//! Changing which backing file an image names, while nobody uses it.
//!
//! Only a sector is written at once or not at all, and the name may lie behind the first. So the
//! new name goes to a part of the first cluster that nothing uses, and the first sector then leads
//! to it, with all extensions in it but the names of features, which nobody needs.

use std::ops::Range;

use super::file;
use super::format::{FormatError, Header};
use crate::{Error, Storage};

const SECTOR_BYTES: u64 = 512;

/// Makes `backing`, a name and a format, the image's backing file; none makes it stand alone.
/// What the disk reads as is not looked after. Returns the image's header as it is then.
pub(crate) async fn rebase(
    storage: &impl Storage,
    header: &Header,
    backing: Option<(String, String)>,
) -> Result<Header, Error> {
    let at = || FormatError::at(storage.path());
    let (name, format) = backing.unzip();
    let header = Header {
        backing_file: name,
        backing_format: format,
        ..header.clone()
    };
    let cluster_bytes = header.layout.cluster_bytes();
    let cluster = file::read(storage, 0, file::len(cluster_bytes)).await?;
    let name = header.backing_file.clone().unwrap_or_default().into_bytes();
    let mut sector = header.encode_first_sector(0).map_err(at())?;
    if !name.is_empty() {
        let name_bytes = name.len() as u64;
        let behind = sector.len() as u64;
        if behind + name_bytes <= SECTOR_BYTES {
            sector = header.encode_first_sector(behind).map_err(at())?;
            sector.extend_from_slice(&name);
        } else {
            let offset = free_place(&cluster, name_bytes).ok_or_else(|| Error::Unsupported {
                path: storage.path().to_owned(),
                problem: format!(
                    "clusters of {cluster_bytes} bytes have no room for a backing file's name \
                     of {name_bytes} bytes; use a shorter name, or a relative one"
                ),
            })?;
            file::write(storage, offset, name).await?;
            storage.sync().await?;
            sector = header.encode_first_sector(offset).map_err(at())?;
        }
    }
    sector.resize(file::len(SECTOR_BYTES), 0);
    file::write(storage, 0, sector).await?;
    storage.sync().await?;
    Ok(header)
}

/// Where a name fits in the first cluster behind the first sector, without touching what is used.
fn free_place(cluster: &[u8], name_bytes: u64) -> Option<u64> {
    let old = Header::backing_file_range(cluster);
    let start = Header::extensions_end(cluster).max(SECTOR_BYTES);
    let fits = |room: Range<u64>| room.end.checked_sub(room.start) >= Some(name_bytes);
    let below = start..old.start.max(start);
    let above = old.end.max(start)..cluster.len() as u64;
    [below, above]
        .into_iter()
        .find(|room| fits(room.clone()))
        .map(|room| room.start)
}

#[cfg(test)]
mod tests;
