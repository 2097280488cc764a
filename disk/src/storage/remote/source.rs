//! What remote storage reads from.

use crate::storage::StorageExtent;
use crate::{BoxFuture, Buffers};

/// The most that is shown of what a server says for people.
const MESSAGE_MAX_CHARS: usize = 300;

/// Why something was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may be later: the server is away, has an error, or said what makes no sense.
    Passing(String),
    /// It never will be: what is there is not what was opened.
    Changed(String),
}

/// Bytes that somebody else has, whose size does not change.
pub(super) trait Source {
    /// Fills `buffers` from `offset`, once. All of it is within the size.
    fn read(&self, offset: u64, buffers: Buffers) -> BoxFuture<'_, Result<(), Failure>>;

    /// What is at `offset`, and how far it goes alike, within `len` bytes; `len` is not 0, and all of
    /// it within the size.
    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<StorageExtent, Failure>>;

    /// Lets go of the server. The last call.
    fn close(&self);
}

/// What a server says for people, as far as it can be shown.
pub(super) fn printable(message: &[u8]) -> String {
    String::from_utf8_lossy(message)
        .chars()
        .filter(|c| !c.is_control())
        .take(MESSAGE_MAX_CHARS)
        .collect()
}
