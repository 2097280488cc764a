//! What an image's journal holds.

use std::fmt::Write as _;

use anyhow::Result;
use disk::{Error, Layer};
use serde::Serialize;

/// The journal of an image, or that there is none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum JournalState {
    /// The image is in use, or was not closed.
    There(Journal),
    /// The image was closed.
    Closed,
}

/// The journal of an image that is in use, or was not closed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Journal {
    /// Where in the file it is, in bytes.
    offset: u64,
    size: u64,
    /// What tells it from others, in hexadecimal digits.
    identity: String,
    #[serde(flatten)]
    content: Content,
}

/// What recovery would make of it.
#[derive(Debug, Serialize)]
#[serde(untagged, rename_all_fields = "kebab-case")]
enum Content {
    Waiting {
        /// Transactions that recovery would bring home.
        transactions: u64,
        /// The number of the last one.
        last_sequence: u64,
        /// What they have for other places of the file.
        bytes: u64,
        /// Whether there is one more, which is not durable.
        newest_dropped: bool,
    },
    Damaged {
        problem: String,
    },
}

impl JournalState {
    pub(super) async fn of(layer: &Layer) -> Result<Self> {
        let Some((region, identity)) = layer.journal() else {
            return Ok(Self::Closed);
        };
        let content = match layer.inspect_journal().await {
            Ok(report) => {
                let report = report.unwrap_or_default();
                Content::Waiting {
                    transactions: report.transactions,
                    last_sequence: report.last_sequence,
                    bytes: report.bytes,
                    newest_dropped: report.dropped,
                }
            }
            // In one that is in use, what is read may be changing.
            Err(Error::Damaged { problem, .. }) => Content::Damaged { problem },
            Err(error) => return Err(error.into()),
        };
        Ok(Self::There(Journal {
            offset: region.start,
            size: region.end.saturating_sub(region.start),
            identity: hexadecimal(&identity),
            content,
        }))
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self::There(journal) = self else {
            return vec!["no journal: the image was closed".to_owned()];
        };
        let mut lines = vec![
            "journal:".to_owned(),
            format!("    offset: {}", journal.offset),
            format!("    size: {}", journal.size),
            format!("    identity: {}", journal.identity),
        ];
        match &journal.content {
            Content::Waiting {
                transactions,
                last_sequence,
                bytes,
                newest_dropped,
            } => {
                let dropped = if *newest_dropped { "yes" } else { "no" };
                lines.push(format!("    transactions waiting: {transactions}"));
                lines.push(format!("    last sequence: {last_sequence}"));
                lines.push(format!("    bytes: {bytes}"));
                lines.push(format!("    newest would be dropped: {dropped}"));
            }
            Content::Damaged { problem } => lines.push(format!("    damaged: {problem}")),
        }
        lines
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
