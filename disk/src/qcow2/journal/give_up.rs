//! Giving up a journal that is damaged, and with it what was written last.

use crate::qcow2::file;
use crate::qcow2::format::{FormatError, Header};
use crate::{Error, Storage};

const SECTOR_BYTES: usize = 512;

/// Makes an image that was not closed an ordinary one without what its journal holds. Its tables
/// may be those of any time since it was opened, with data that is newer than they are: it must be
/// repaired. An image without a journal stays as it is.
///
/// Only the first sector is written: the image has a journal before and none after, whenever this
/// is interrupted. The sector is made anew from the header as it is now, since the journal that
/// keeps the one before is not to be trusted. All of the header is in it but the names of features.
/// The journal's space stays with the file, where nothing refers to it: its place is not to be
/// trusted either.
pub async fn give_up_journal(storage: &impl Storage) -> Result<(), Error> {
    let header = file::read_header(storage).await?;
    if header.journal.is_none() {
        return Ok(());
    }
    let header = header.without_journal();
    let at = || FormatError::at(storage.path());
    header.check_tables(storage.size_bytes()).map_err(at())?;
    let old = file::read(storage, 0, file::len(header.layout.cluster_bytes())).await?;
    let sector = ordinary_sector(&header, &old).map_err(at())?;
    file::write(storage, 0, sector).await?;
    storage.sync().await
}

/// The first sector of an image without a journal. The backing file's name stays where it is in
/// `old`, the first cluster.
fn ordinary_sector(header: &Header, old: &[u8]) -> Result<Vec<u8>, FormatError> {
    let name = Header::backing_file_range(old);
    let name_offset = if header.backing_file.is_some() {
        name.start
    } else {
        0
    };
    let mut sector = header.encode_first_sector(name_offset)?;
    let (from, to) = (file::len(name.start), file::len(name.end).min(SECTOR_BYTES));
    let end = sector.len();
    sector.resize(SECTOR_BYTES, 0);
    if header.backing_file.is_some() && from < to {
        // There was more before it: an image with a journal has more extensions.
        if from < end {
            let problem = "the backing file's name is where extensions belong";
            return Err(FormatError::damaged(name.start, problem));
        }
        sector[from..to].copy_from_slice(&old[from..to]);
    }
    Ok(sector)
}
