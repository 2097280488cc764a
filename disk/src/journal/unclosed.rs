//! What users are told of images that were not closed.

use std::path::Path;
use std::time::Duration;

use super::RecoveryReport;
use crate::{Error, JournalStatistics, Storage};

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

    /// Says that an image was recovered, which took so long; and how a journal's statistics begin
    /// then.
    pub(crate) fn note(&self, path: &Path, took: Duration) -> JournalStatistics {
        let (path, transactions) = (path.display(), self.counted());
        tracing::warn!("{path}: was not closed; {transactions} recovered from its journal");
        JournalStatistics {
            recovered_transactions: self.transactions,
            recovery_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
            ..JournalStatistics::default()
        }
    }

    /// How many transactions there are, in words.
    fn counted(&self) -> String {
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
