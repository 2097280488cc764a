//! Changing which backing file an image names, while nobody uses it.
//!
//! Only a sector is written at once or not at all, and the name may lie behind the first. So the
//! new name goes to a part of the first cluster that nothing uses, and the first sector then leads
//! to it, with all extensions in it but the names of features, which nobody needs.

use std::ops::{Range, RangeInclusive};

use super::file;
use super::format::{FormatError, Header};
use crate::{Error, Storage};

const SECTOR_BYTES: u64 = 512;
/// What the format allows.
const NAME_BYTES: RangeInclusive<usize> = 1..=1023;

/// Makes `backing`, a name and a format, the image's backing file; none makes it stand alone.
/// What the disk reads as is not looked after. Returns the image's header as it is then.
pub(crate) async fn rebase(
    storage: &impl Storage,
    header: &Header,
    backing: Option<(String, String)>,
) -> Result<Header, Error> {
    let (name, format) = backing.unzip();
    if name
        .as_ref()
        .is_some_and(|name| !NAME_BYTES.contains(&name.len()))
    {
        return Err(Error::Unsupported {
            path: storage.path().to_owned(),
            problem: "the name of a backing file has 1 to 1023 bytes".into(),
        });
    }
    let header = Header {
        backing_file: name,
        backing_format: format,
        ..header.clone()
    };
    let mut sector = place_name(storage, &header).await?;
    sector.resize(file::len(SECTOR_BYTES), 0);
    file::write(storage, 0, sector).await?;
    storage.sync().await?;
    Ok(header)
}

/// Makes the first sector. A name that does not fit in it is written elsewhere, and durable.
async fn place_name(storage: &impl Storage, header: &Header) -> Result<Vec<u8>, Error> {
    let encode = |name_offset| {
        header
            .encode_first_sector(name_offset)
            .map_err(FormatError::at(storage.path()))
    };
    let without = encode(0)?;
    let Some(name) = &header.backing_file else {
        return Ok(without);
    };
    let (behind, name_bytes) = (without.len() as u64, name.len() as u64);
    if behind + name_bytes <= SECTOR_BYTES {
        return Ok([&encode(behind)?, name.as_bytes()].concat());
    }
    let cluster_bytes = header.layout.cluster_bytes();
    let cluster = file::read(storage, 0, file::len(cluster_bytes)).await?;
    let offset = free_place(&cluster, name_bytes).ok_or_else(|| Error::Unsupported {
        path: storage.path().to_owned(),
        problem: format!(
            "clusters of {cluster_bytes} bytes have no room for a backing file's name \
             of {name_bytes} bytes; use a shorter name, or a relative one"
        ),
    })?;
    file::write(storage, offset, name.clone().into_bytes()).await?;
    storage.sync().await?;
    encode(offset)
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
