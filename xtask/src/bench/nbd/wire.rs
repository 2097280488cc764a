//! The little of the NBD protocol (`doc/proto.md` of the NBD project) that a client needs to
//! measure a server: the handshake for the default export, requests, and simple replies.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result};

const EXPORT_NAME: &[u8] = b"IHAVEOPT\0\0\0\x01\0\0\0\0";
/// Fixed newstyle, without zeros after the reply.
const FLAGS: u32 = 3;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_START: [u8; 8] = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0];
/// The length of a reply, without the data that follows the reply to a read.
pub(in crate::bench) const REPLY_BYTES: usize = 16;

/// What a server can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(in crate::bench) enum Command {
    Read = 0,
    Write = 1,
    Flush = 3,
    Trim = 4,
}

/// A request, but for the data of a write, which follows it.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Request {
    pub(in crate::bench) command: Command,
    /// What the reply to it holds.
    pub(in crate::bench) cookie: u64,
    pub(in crate::bench) offset: u64,
    pub(in crate::bench) len: usize,
}

impl Request {
    /// Puts it behind what is to be sent.
    pub(in crate::bench) fn push(&self, requests: &mut Vec<u8>) {
        let len = u32::try_from(self.len).unwrap_or(u32::MAX);
        requests.extend(REQUEST_MAGIC.to_be_bytes());
        requests.extend(0_u16.to_be_bytes());
        requests.extend((self.command as u16).to_be_bytes());
        requests.extend(self.cookie.to_be_bytes());
        requests.extend(self.offset.to_be_bytes());
        requests.extend(len.to_be_bytes());
    }
}

/// Connects to a server's default export, and returns its size in bytes too.
pub(in crate::bench) fn connect(socket: &Path) -> Result<(UnixStream, u64)> {
    let mut stream = UnixStream::connect(socket).context("cannot connect")?;
    stream.read_exact(&mut [0; 18])?;
    stream.write_all(&FLAGS.to_be_bytes())?;
    stream.write_all(EXPORT_NAME)?;
    let mut size = [0; 8];
    stream.read_exact(&mut size)?;
    stream.read_exact(&mut [0; 2])?;
    Ok((stream, u64::from_be_bytes(size)))
}

/// The cookie at the start of a reply, which must say that all went well.
pub(in crate::bench) fn reply_cookie(reply: &[u8]) -> Result<u64> {
    let rest = reply.strip_prefix(&REPLY_START);
    let cookie = rest.and_then(|rest| rest.first_chunk());
    let cookie = cookie.context("the server failed a request")?;
    Ok(u64::from_be_bytes(*cookie))
}
