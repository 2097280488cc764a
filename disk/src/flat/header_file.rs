//! The header in the image's file.

use super::format::{HEADER_BYTES, Header, NAMES_END, other_names_offset};
use crate::flush::Flusher;
use crate::format_error::FormatError;
use crate::mutant::mutant;
use crate::storage::{len, read};
use crate::{Buffers, Error, Storage};

/// Reads and parses the header, and looks whether the file has all that it tells of.
pub async fn read_header(storage: &impl Storage) -> Result<Header, Error> {
    let start = read(storage, 0, len(storage.size_bytes().min(NAMES_END))).await?;
    let header = Header::parse(&start).map_err(FormatError::at(storage.path()))?;
    if storage.size_bytes() < header.file_end() {
        let problem = format!(
            "the file ends at {} bytes, and its disk at {}",
            storage.size_bytes(),
            header.file_end()
        );
        let flaw = FormatError::damaged(storage.size_bytes(), problem);
        return Err(FormatError::at(storage.path())(flaw));
    }
    Ok(header)
}

/// Replaces the header, durably, by one write of its sector. Names go to where there are none yet,
/// before.
pub(super) async fn replace_header(
    storage: &impl Storage,
    flusher: &Flusher,
    old: &Header,
    mut new: Header,
) -> Result<Header, Error> {
    if new.base != old.base {
        new.names_offset = match new.base {
            Some(_) => other_names_offset(old.names_offset),
            None => 0,
        };
        let (_, names) = new.encode();
        if !names.is_empty() {
            let written = storage
                .write_at(new.names_offset, Buffers::from_vec(names))
                .await;
            flusher.changed();
            written?;
        }
    }
    // What the sector tells of comes before it.
    let is_other = new.snapshots != old.snapshots;
    if !is_other || !mutant("snapshots are switched to before they are durable") {
        flusher.flush(storage).await?;
    }
    write_sector(storage, flusher, &new).await?;
    Ok(new)
}

/// Writes the header's sector, durably.
async fn write_sector(
    storage: &impl Storage,
    flusher: &Flusher,
    header: &Header,
) -> Result<(), Error> {
    let (sector, _) = header.encode();
    debug_assert_eq!(sector.len() as u64, HEADER_BYTES);
    let written = storage.write_at(0, Buffers::from_vec(sector)).await;
    flusher.changed();
    // Where it fails, nobody knows which one the image has.
    written.inspect_err(|_| flusher.fail())?;
    flusher.flush(storage).await
}
