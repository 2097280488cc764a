//! The journal of a qcow2 image: how its header tells of one, and bringing the image back from one
//! that was not closed.

mod give_up;
#[cfg(test)]
mod tests;

pub use give_up::give_up_journal;

use super::format::{FormatError, Header, IncompatibleFeatures, JournalExtension};
use super::{copied, file};
use crate::journal::{RecoveryReport, find, unclosed};
use crate::mutant::mutant;
use crate::{CheckReport, Error, Storage};

const SECTOR_BYTES: u64 = 512;

/// Makes the first sector of an image with a journal. A backing file's name that is in its way is
/// written elsewhere in the first cluster, where it does not matter if it stays. Absent if there is
/// no room.
pub(super) async fn place_name(
    storage: &impl Storage,
    header: &Header,
) -> Result<Option<Vec<u8>>, Error> {
    let Some(without) = header.encode_journal_sector(0) else {
        return Ok(None);
    };
    let Some(name) = &header.backing_file else {
        return Ok(Some(without));
    };
    let (used, name_bytes) = (without.len() as u64, name.len() as u64);
    if used + name_bytes <= SECTOR_BYTES {
        let sector = header.encode_journal_sector(used);
        return Ok(sector.map(|sector| [&sector, name.as_bytes()].concat()));
    }
    let cluster_bytes = header.layout.cluster_bytes();
    let cluster = file::read(storage, 0, file::len(cluster_bytes)).await?;
    let old = Header::backing_file_range(&cluster);
    if old.start >= SECTOR_BYTES {
        return Ok(header.encode_journal_sector(old.start));
    }
    // Beyond all that the ordinary header has.
    let offset = Header::extensions_end(&cluster)
        .max(old.end)
        .max(SECTOR_BYTES);
    if offset + name_bytes > cluster_bytes {
        return Ok(None);
    }
    file::write(storage, offset, name.clone().into_bytes()).await?;
    Ok(header.encode_journal_sector(offset))
}

/// The first sector of the ordinary image that one with a journal becomes: `kept`, which was there
/// before, with what has changed since.
pub(super) fn sector_without_journal(kept: &[u8], header: &Header) -> Vec<u8> {
    let mut sector = kept.to_vec();
    header.update(&mut sector);
    sector
}

/// Brings an image back that was not closed: what its journal holds goes to its places, and the
/// image is an ordinary one afterwards. Interrupted, it is begun again by the next one. An image
/// without a journal stays as it is, and there is no report.
pub async fn recover(storage: &impl Storage) -> Result<Option<RecoveryReport>, Error> {
    let header = file::read_header(storage).await?;
    let Some(extension) = header.journal else {
        return Ok(None);
    };
    if storage.geometry().read_only {
        return Err(unclosed(storage));
    }
    let found = find(storage, extension.region.clone(), extension.identity).await?;
    if !mutant("recovery brings nothing home") {
        found.bring_home(storage).await?;
    }
    // Tables may have moved.
    let header = file::read_header(storage).await?.without_journal();
    header
        .check_tables(storage.size_bytes())
        .map_err(FormatError::at(storage.path()))?;
    // What is wrong with a table may be that it is none.
    let is_sound = !header.incompatible.has(IncompatibleFeatures::CORRUPT);
    if extension.shared && is_sound {
        Box::pin(copied::settle(storage, &header)).await?;
        storage.sync().await?;
    }
    let sector = sector_without_journal(&found.kept, &header);
    file::write(storage, 0, sector).await?;
    storage.sync().await?;
    let region = extension.region;
    let given = if storage.size_bytes() <= region.end {
        storage.set_len(region.start).await
    } else {
        let len = region.end - region.start;
        storage.discard(region.start, len).await.map(drop)
    };
    if let Err(error) = given {
        tracing::debug!(%error, "the journal's space stays with the file");
    }
    Ok(Some(found.report))
}

/// What an image's journal would have recovery do; absent if it was closed.
pub async fn inspect(
    storage: &impl Storage,
    header: &Header,
) -> Result<Option<RecoveryReport>, Error> {
    let Some(JournalExtension {
        region, identity, ..
    }) = header.journal.clone()
    else {
        return Ok(None);
    };
    let found = find(storage, region, identity).await?;
    Ok(Some(found.report))
}

/// What a check says of an image that was not closed: its tables are stale, and what is wrong with
/// them means nothing. Absent if there is no journal.
pub(super) async fn check_report(
    storage: &impl Storage,
    header: &Header,
) -> Result<Option<CheckReport>, Error> {
    let Some(JournalExtension { region, .. }) = &header.journal else {
        return Ok(None);
    };
    let (offset, problem) = match inspect(storage, header).await {
        Ok(found) => (region.start, found.unwrap_or_default().waiting()),
        Err(Error::Damaged {
            offset, problem, ..
        }) => (
            offset,
            format!("not closed, and {problem}; check --repair all gives the journal up"),
        ),
        Err(error) => return Err(error),
    };
    let mut report = CheckReport::default();
    report.unchecked(offset, problem);
    Ok(Some(report))
}
