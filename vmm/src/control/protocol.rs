//! What goes through the socket: a request, and its reply, each a line of JSON.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::insight::Summary;

/// The longest request: a path has at most 4096 bytes, and each may be written as six.
pub(super) const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// The longest reply: a report has some thousand paths of at most 512 bytes, as long as that.
pub(super) const REPLY_BYTES_MAX: u64 = 16 << 20;

/// What to do.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(super) enum Request {
    /// Puts a new overlay on a disk, whose image stays as it is from then on.
    Snapshot {
        /// The name of the disk: `blk0` is the first.
        disk: String,
        /// The overlay, which is not there yet.
        file: PathBuf,
        /// Its format: qcow2 or flat.
        format: String,
    },
    /// Brings home what is dirty in a disk's cache, and drops all of it.
    CacheClear {
        /// The name of the disk.
        disk: String,
    },
    /// Lists what is in a disk's cache.
    CacheList {
        /// The name of the disk.
        disk: String,
        /// From this byte on.
        offset: u64,
    },
    /// Switches the hooks on the guest's system calls.
    Insight {
        /// Whether they shall be there.
        on: bool,
    },
    /// Tells what those hooks have seen.
    InsightReport,
}

/// What became of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reply {
    Done,
    /// The first of the ranges that are cached, in order; none if there are no more.
    Ranges(Vec<Range>),
    Report(Box<Summary>),
    Error(String),
}

/// What is cached in one piece.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    /// The first byte.
    pub(super) offset: u64,
    /// How many bytes.
    pub(super) len: u64,
    /// What they are to the guest.
    pub(super) class: String,
    /// Whether the disk lacks them.
    pub(super) dirty: bool,
}

/// Sends a message.
pub(super) fn send(mut stream: &UnixStream, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).context("cannot send")
}

/// Receives a message of at most `bytes_max`.
pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream, bytes_max: u64) -> Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(bytes_max))
        .read_until(b'\n', &mut line)
        .context("cannot receive")?;
    if !line.ends_with(b"\n") {
        bail!("the message is not a line, or too long");
    }
    serde_json::from_slice(&line).context("the message is not understood")
}
