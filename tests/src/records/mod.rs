//! A workload that knows what must be on its disk: numbered records, each reported after its fsync.
//!
//! ```text
//!  DIR/0/log-0…3   records one after the other, of a few hundred bytes: blocks are written again
//!                  right after they were allocated; emptied when they get long
//!  DIR/0/pages     pages of 4 KiB, written in place; page 0 holds the last number now and then
//!  DIR/0/file-N    record N alone, from a few bytes to megabytes; the oldest is deleted
//!  DIR/1/…         the same of the next writer, at the same time
//! ```
//!
//! What a writer does is drawn from a seed and nothing else ([`Plan`]). Whoever knows the seed and
//! the last number that was reported knows every byte that must be there ([`verify()`]).

mod content;
mod numbers;
mod plan;
mod verify;
mod write;

pub use content::record;
pub use numbers::Numbers;
pub use plan::{Operation, Plan, State, Step};
pub use verify::{Verdict, verify};
pub use write::{Trim, write};

/// How many write at the same time, each in a directory of its own.
pub const WRITERS: usize = 3;
/// The size of what is overwritten in place: a block of the file system.
pub const PAGE_BYTES: usize = 4096;
/// How many log files a writer has.
pub const LOGS: usize = 4;

/// The name of a log file.
fn log_name(log: usize) -> String {
    format!("log-{log}")
}

/// The name of the file that holds one record alone.
fn file_name(number: u64) -> String {
    format!("file-{number}")
}

/// The name of the file of pages.
const PAGES_NAME: &str = "pages";

#[cfg(test)]
mod tests;
