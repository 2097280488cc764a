//! Taking everything out of an image that nobody uses: it reads as its backing file then.

use super::format::{AutoclearFeatures, Header, L1Entry};
use super::rewrite::{Change, Rewrite};
use crate::{Error, Storage};

/// Empties the disk; snapshots keep what they hold. Returns the image's header as it is then.
pub(crate) async fn empty(storage: &impl Storage, header: &Header) -> Result<Header, Error> {
    let mut rewrite = Rewrite::begin(storage, header).await?;
    if header.autoclear.0 & AutoclearFeatures::DATA_FILE_RAW != 0 {
        let problem = "its data file is to read as the disk does, and cannot be emptied";
        return Err(rewrite.unsupported(problem));
    }
    let mut l1 = rewrite.read_l1(header.l1_offset, header.l1_entries).await?;
    rewrite.count_tree(&l1, Change::Remove).await?;
    l1.fill(L1Entry(0));
    rewrite.replace_l1(&l1).await?;
    rewrite.commit().await
}
