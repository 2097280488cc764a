//! A client that costs little: one system call sends all requests there is room for, and one
//! receives all replies there are.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::contender::STAMP_BYTES;
use super::load::Load;

const EXPORT_NAME: &[u8] = b"IHAVEOPT\0\0\0\x01\0\0\0\0";
/// Fixed newstyle, without zeros after the reply.
const FLAGS: u32 = 3;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_START: [u8; 8] = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0];
const REPLY_BYTES: usize = 16;
const READ: u16 = 0;
const WRITE: u16 = 1;
/// Of every server's requests, so that they get the same.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) requests: f64,
    pub(super) seconds: f64,
}

/// A connection to a server.
pub(super) struct Client {
    stream: UnixStream,
    size_bytes: u64,
}

/// A run in progress.
struct Run<'a> {
    load: &'a Load,
    size_bytes: u64,
    random: u64,
    next: u64,
    /// What is to be sent.
    requests: Vec<u8>,
    /// What has been received of replies that are not complete.
    received: Vec<u8>,
    /// Where the requests in flight read or write, by the number that is their cookie.
    offsets: Vec<u64>,
}

impl Client {
    /// Connects to a server's default export.
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(socket).context("cannot connect")?;
        stream.read_exact(&mut [0; 18])?;
        stream.write_all(&FLAGS.to_be_bytes())?;
        stream.write_all(EXPORT_NAME)?;
        let mut size = [0; 8];
        stream.read_exact(&mut size)?;
        stream.read_exact(&mut [0; 2])?;
        Ok(Self {
            stream,
            size_bytes: u64::from_be_bytes(size),
        })
    }

    /// Keeps as many requests in flight as `load` says for `duration`.
    pub(super) fn run(&mut self, load: &Load, duration: Duration) -> Result<Done> {
        let mut run = Run::new(load, self.size_bytes);
        let mut buffer = vec![0; load.depth * run.reply_bytes()];
        for slot in 0..load.depth {
            run.start(slot);
        }
        let (start, mut done, mut in_flight) = (Instant::now(), 0_u32, load.depth);
        while in_flight > 0 {
            self.stream.write_all(&run.requests)?;
            run.requests.clear();
            let count = self.stream.read(&mut buffer)?;
            ensure!(count > 0, "the server has gone");
            let going_on = start.elapsed() < duration;
            for slot in run.finish(&buffer[..count])? {
                done += 1;
                if going_on {
                    run.start(slot);
                } else {
                    in_flight -= 1;
                }
            }
        }
        Ok(Done {
            requests: f64::from(done),
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

impl<'a> Run<'a> {
    fn new(load: &'a Load, size_bytes: u64) -> Self {
        Self {
            load,
            size_bytes,
            random: SEED,
            next: 0,
            requests: Vec::new(),
            received: Vec::new(),
            offsets: vec![0; load.depth],
        }
    }

    fn reply_bytes(&self) -> usize {
        let data = if self.load.write {
            0
        } else {
            self.load.block_bytes
        };
        REPLY_BYTES + data
    }

    /// Puts a request among those to be sent.
    fn start(&mut self, slot: usize) {
        let blocks = self.size_bytes / self.load.block_bytes as u64;
        let block = if self.load.random {
            // xorshift64
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % blocks
        } else {
            self.next += 1;
            self.next % blocks
        };
        let offset = block * self.load.block_bytes as u64;
        self.offsets[slot] = offset;
        let command = if self.load.write { WRITE } else { READ };
        let len = u32::try_from(self.load.block_bytes).unwrap_or(u32::MAX);
        self.requests.extend(REQUEST_MAGIC.to_be_bytes());
        self.requests.extend(0_u16.to_be_bytes());
        self.requests.extend(command.to_be_bytes());
        self.requests.extend((slot as u64).to_be_bytes());
        self.requests.extend(offset.to_be_bytes());
        self.requests.extend(len.to_be_bytes());
        if self.load.write {
            let start = self.requests.len();
            self.requests.resize(start + self.load.block_bytes, 0x5a);
            let stamps = self.requests[start..].chunks_mut(STAMP_BYTES);
            for (stamp, offset) in stamps.zip((offset..).step_by(STAMP_BYTES)) {
                stamp[..8].copy_from_slice(&block_start(offset));
            }
        }
    }

    /// Takes replies apart, and returns the slots whose requests are done.
    fn finish(&mut self, bytes: &[u8]) -> Result<Vec<usize>> {
        let reply_bytes = self.reply_bytes();
        let mut slots = Vec::new();
        let mut rest = bytes;
        if !self.received.is_empty() {
            let missing = reply_bytes - self.received.len();
            let (head, tail) = rest.split_at(missing.min(rest.len()));
            self.received.extend(head);
            rest = tail;
            if self.received.len() < reply_bytes {
                return Ok(slots);
            }
            let reply = std::mem::take(&mut self.received);
            slots.push(self.check(&reply)?);
        }
        let mut replies = rest.chunks_exact(reply_bytes);
        for reply in &mut replies {
            slots.push(self.check(reply)?);
        }
        self.received.extend(replies.remainder());
        Ok(slots)
    }

    /// The slot of a reply, which must be right.
    fn check(&self, reply: &[u8]) -> Result<usize> {
        let (start, rest) = reply.split_at(REPLY_START.len());
        ensure!(start == REPLY_START, "{}: the server failed it", self.load);
        let (cookie, data) = rest.split_at(8);
        let slot = u64::from_be_bytes(cookie.try_into()?);
        let slot = usize::try_from(slot)?;
        let offset = self.offsets.get(slot).context("a reply to no request")?;
        ensure!(
            self.load.write || data[..8] == block_start(*offset),
            "{}: wrong data at {offset}",
            self.load
        );
        Ok(slot)
    }
}

/// The first bytes of the block at `offset`.
pub(super) fn block_start(offset: u64) -> [u8; 8] {
    (!offset).to_be_bytes()
}
