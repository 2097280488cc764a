//! Persistent bitmaps, which we keep without keeping them up. Part "Bitmaps" of the specification.

use super::file;
use super::format::{AutoclearFeatures, BitmapEntry, BitmapFlags, Header};
use crate::{Error, Storage};

/// Where an entry of the directory has its flags, in bytes.
const FLAGS_OFFSET: u64 = 12;

/// Which bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bitmaps {
    /// Those that every write to the disk must go to.
    Enabled,
    /// All.
    All,
}

/// The bitmaps of an image; none if the image says that they may be inconsistent.
pub(crate) async fn list(
    storage: &impl Storage,
    header: &Header,
) -> Result<Vec<BitmapEntry>, Error> {
    match header.bitmaps {
        Some(bitmaps) if header.autoclear.0 & AutoclearFeatures::BITMAPS != 0 => {
            let bytes = file::len(bitmaps.directory_bytes);
            let directory = file::read(storage, bitmaps.directory_offset, bytes).await?;
            bitmaps
                .parse_directory(&directory)
                .map_err(super::format::FormatError::at(storage.path()))
        }
        _ => Ok(Vec::new()),
    }
}

/// Says of bitmaps that they may not be true any more, which must be durable before what makes
/// them so: the caller syncs. Should their directory be damaged, it is given up. Returns the
/// image's header as it is then.
pub(crate) async fn mark_in_use(
    storage: &impl Storage,
    header: &Header,
    which: Bitmaps,
) -> Result<Header, Error> {
    let mut header = header.clone();
    let bitmaps = match list(storage, &header).await {
        Ok(bitmaps) => bitmaps,
        Err(Error::Damaged { .. }) => {
            header.autoclear = AutoclearFeatures(header.autoclear.0 & !AutoclearFeatures::BITMAPS);
            let bytes = header.autoclear.0.to_be_bytes().to_vec();
            file::write(storage, Header::AUTOCLEAR_OFFSET, bytes).await?;
            return Ok(header);
        }
        Err(error) => return Err(error),
    };
    let mut offset = header.bitmaps.map_or(0, |bitmaps| bitmaps.directory_offset);
    for bitmap in bitmaps {
        let flags = bitmap.flags.0;
        let wanted = which == Bitmaps::All || flags & BitmapFlags::AUTO != 0;
        if wanted && flags & BitmapFlags::IN_USE == 0 {
            let flags = flags | BitmapFlags::IN_USE;
            let at = offset + FLAGS_OFFSET;
            file::write(storage, at, flags.to_be_bytes().to_vec()).await?;
        }
        offset += bitmap.encode().len() as u64;
    }
    Ok(header)
}

#[cfg(test)]
mod tests;
