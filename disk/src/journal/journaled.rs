//! What a journal needs of the image that it belongs to.

use std::future::Future;
use std::rc::Rc;

use super::Journal;
use crate::flush::Flusher;
use crate::{Buffers, Error, Storage};

/// An image that keeps its metadata in order by a journal, while it has one.
pub(crate) trait Journaled {
    /// What the image is in.
    type Storage: Storage;

    /// The file that has the journal.
    fn storage(&self) -> &Self::Storage;

    /// What has been changed in it, and what of that is durable.
    fn flusher(&self) -> &Flusher;

    /// The journal, while there is one.
    fn journal(&self) -> Option<Rc<Journal>>;

    /// The journal, if it vouches for guest data.
    fn guarding_journal(&self) -> Option<Rc<Journal>>;

    /// Where the file ends at least.
    fn file_end(&self) -> u64;

    /// An error, if nothing may be written any more.
    fn check_writable(&self, operation: &'static str) -> Result<(), Error>;

    /// Commits what is pending, even if that is nothing.
    fn commit_mark(&self) -> impl Future<Output = Result<(), Error>>;

    /// Writes guest data to its place, whatever a journal says.
    fn write_host(&self, host: u64, buffers: Buffers) -> impl Future<Output = Result<(), Error>>;

    /// A checkpoint has written so much metadata: all that records have up to number `upto`.
    fn written_home(&self, upto: u64, metadata_bytes: u64);

    /// Gives the host back what it could have; whether that is anything.
    fn give_back_spare(&self) -> impl Future<Output = Result<bool, Error>>;

    /// Brings everything home, and gives back what is ahead of need: nobody wants anything just now.
    fn tidy(&self) -> impl Future<Output = Result<(), Error>>;
}
