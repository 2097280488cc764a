//! Filebench's varmail.

use ::disk::Error;

use super::super::guest::{BLOCK_BYTES, Guest, Metadata};
use super::super::random::Random;

/// As many as in `varmail.f`, in one directory.
const FILES: u64 = 1000;
const DIRECTORY_BLOCKS: u64 = 8;
/// `appendfilerand` appends up to 16 KiB.
const APPEND_BLOCKS_MAX: u64 = 4;

/// The loop of `varmail.f`: delete a mail; create one, append to it, `fsync`; open one, read it,
/// append, `fsync`; open one and read it. All mails together have 16 MiB, so that reads come from
/// the guest's page cache, and only the changes are left.
pub(in super::super) struct Mail;

impl Mail {
    pub(super) async fn operation(&self, guest: &Guest, random: &mut Random) -> Result<(), Error> {
        guest.change(entry(random.below(FILES), random));
        guest.change([Metadata::BlockBitmap, Metadata::Groups]);
        let created = random.below(FILES);
        guest.change(entry(created, random));
        append(created, guest, random).await?;
        append(random.below(FILES), guest, random).await
    }
}

/// What changes when a file comes or goes.
fn entry(file: u64, random: &mut Random) -> [Metadata; 4] {
    [
        Metadata::Directory(random.below(DIRECTORY_BLOCKS)),
        Metadata::Inode(file),
        Metadata::InodeBitmap,
        Metadata::Groups,
    ]
}

async fn append(file: u64, guest: &Guest, random: &mut Random) -> Result<(), Error> {
    let len = (1 + random.below(APPEND_BLOCKS_MAX)) * BLOCK_BYTES;
    guest.write(guest.allocate(len), len).await?;
    guest.commit(Metadata::appended(file)).await
}
