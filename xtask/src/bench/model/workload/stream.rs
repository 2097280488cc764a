//! What dd with `oflag=sync` and Mobibench do: 64 KiB, sync, and again.

use ::disk::Error;

use super::super::guest::{FREED, Guest, Metadata};
use super::super::random::Random;

const LEN: u64 = 64 << 10;

/// Appends to a new file, or overwrites anywhere in one that has all its blocks; the latter
/// changes no metadata.
pub(in super::super) struct Stream {
    pub(super) append: bool,
}

impl Stream {
    pub(super) async fn operation(&self, guest: &Guest, random: &mut Random) -> Result<(), Error> {
        if self.append {
            guest.write(guest.allocate(LEN), LEN).await?;
            guest.commit(Metadata::appended(0)).await
        } else {
            let piece = random.below((FREED.end - FREED.start) / LEN);
            guest.write(FREED.start + piece * LEN, LEN).await?;
            guest.flush().await
        }
    }
}
