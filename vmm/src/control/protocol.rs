//! What goes through the socket: a request, and its reply, each a line of JSON.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest line: a path has at most 4096 bytes, and each may be written as six.
const LINE_BYTES_MAX: u64 = 64 << 10;

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
}

/// What became of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reply {
    Done,
    /// The first of the ranges that are cached, in order; none if there are no more.
    Ranges(Vec<Range>),
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

/// Receives a message.
pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_BYTES_MAX))
        .read_until(b'\n', &mut line)
        .context("cannot receive")?;
    if !line.ends_with(b"\n") {
        bail!("the message is not a line, or too long");
    }
    serde_json::from_slice(&line).context("the message is not understood")
}
