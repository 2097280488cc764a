//! What users are told of images that were not closed.

use super::RecoveryReport;
use crate::{Error, Storage};

impl RecoveryReport {
    /// What waits to be brought home, and how that is done.
    pub(crate) fn waiting(&self) -> String {
        let (transactions, bytes) = (self.counted(), self.bytes);
        let (wait, them) = match self.transactions {
            1 => ("waits", "it"),
            _ => ("wait", "them"),
        };
        format!(
            "not closed: {transactions} ({bytes} bytes) {wait} in its journal; \
             opening it for writing, or check --repair leaks, brings {them} home"
        )
    }

    /// How many transactions there are, in words.
    pub(crate) fn counted(&self) -> String {
        let s = if self.transactions == 1 { "" } else { "s" };
        format!("{} transaction{s}", self.transactions)
    }
}

/// Says that an image must be recovered before anybody reads it.
pub(crate) fn unclosed(storage: &impl Storage) -> Error {
    Error::Unsupported {
        path: storage.path().to_owned(),
        problem: "was not closed, or is open for writing now, and its last writes are in its \
                  journal; once nobody uses it, open it for writing, or run \
                  microvm image check --repair leaks on it"
            .to_owned(),
    }
}
