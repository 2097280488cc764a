//! The journal of a flat image that was not closed.

use std::ops::Range;

use super::format::Header;
use super::header_file::{read_header, replace_header};
use crate::flush::Flusher;
use crate::journal::{RecoveryReport, find, unclosed};
use crate::mutant::mutant;
use crate::{Error, Storage};

/// Brings an image back that was not closed: what its journal holds goes to its places. Interrupted,
/// it is begun again by the next one. An image without a journal stays as it is, and there is no
/// report.
pub async fn recover(storage: &impl Storage) -> Result<Option<RecoveryReport>, Error> {
    let header = read_header(storage).await?;
    let Some(identity) = header.journal_identity else {
        return Ok(None);
    };
    if storage.geometry().read_only {
        return Err(unclosed(storage));
    }
    let found = find(storage, header.journal.clone(), identity).await?;
    if !mutant("recovery of a flat image brings nothing home") {
        found.bring_home(storage).await?;
    }
    close(storage, &header).await?;
    give_back(storage, &header.journal).await;
    Ok(Some(found.report))
}

/// Gives the host back the space of a journal that has ended.
pub(super) async fn give_back(storage: &impl Storage, region: &Range<u64>) {
    let given = storage.discard(region.start, region.end - region.start);
    if let Err(error) = given.await {
        tracing::debug!(%error, "the journal's space stays with the file");
    }
}

/// Makes an image that was not closed a closed one without what its journal holds: blocks of which
/// only that knew come from the base again. The journal's space stays with the file. An image
/// without a journal stays as it is.
pub async fn give_up_journal(storage: &impl Storage) -> Result<(), Error> {
    let header = read_header(storage).await?;
    if header.journal_identity.is_some() {
        close(storage, &header).await?;
    }
    Ok(())
}

/// Has the header say that there is no journal, durably.
async fn close(storage: &impl Storage, header: &Header) -> Result<(), Error> {
    let closed = Header {
        journal_identity: None,
        ..header.clone()
    };
    let flusher = Flusher::new(false, false);
    replace_header(storage, &flusher, header, closed).await?;
    Ok(())
}

/// What an image's journal would have recovery do; absent if it was closed.
pub async fn inspect(
    storage: &impl Storage,
    header: &Header,
) -> Result<Option<RecoveryReport>, Error> {
    let Some(identity) = header.journal_identity else {
        return Ok(None);
    };
    let found = find(storage, header.journal.clone(), identity).await?;
    Ok(Some(found.report))
}
