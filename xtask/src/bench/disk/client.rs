//! An NBD client that costs little: one system call sends all requests there is room for, and one
//! receives all replies there are.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::load::Load;
use super::session::Done;
use crate::bench::nbd::{Command, REPLY_BYTES, Request, block_start, connect, reply_cookie, stamp};
use crate::bench::places::Places;

/// A connection to a server.
pub(in crate::bench) struct Client {
    stream: UnixStream,
    size_bytes: u64,
}

/// A run in progress.
struct Run<'a> {
    load: &'a Load,
    places: Places,
    /// What is to be sent.
    requests: Vec<u8>,
    /// Where the requests in flight read or write, by the number that is their cookie.
    offsets: Vec<u64>,
}

impl Client {
    /// Connects to a server's default export.
    pub(in crate::bench) fn connect(socket: &Path) -> Result<Self> {
        let (stream, size_bytes) = connect(socket)?;
        Ok(Self { stream, size_bytes })
    }

    /// Has it ask for nothing behind the first `size_bytes`.
    pub(in crate::bench) fn within(self, size_bytes: u64) -> Self {
        Self { size_bytes, ..self }
    }

    /// Keeps as many requests in flight as `load` says for `duration`.
    pub(super) fn run(&mut self, load: &Load, duration: Duration) -> Result<Done> {
        let mut run = Run::new(load, self.size_bytes);
        let mut buffer = vec![0; load.depth * run.reply_bytes()];
        for slot in 0..load.depth {
            run.start(slot)?;
        }
        let (start, mut done, mut in_flight) = (Instant::now(), 0_u32, load.depth);
        // What has been received of a reply that is not complete is at the start of the buffer.
        let mut received = 0;
        while in_flight > 0 {
            self.stream.write_all(&run.requests)?;
            run.requests.clear();
            let count = self.stream.read(&mut buffer[received..])?;
            ensure!(count > 0, "the server has gone");
            received += count;
            let going_on = start.elapsed() < duration;
            let (slots, complete) = run.finish(&buffer[..received])?;
            buffer.copy_within(complete..received, 0);
            received -= complete;
            for slot in slots {
                done += 1;
                if going_on {
                    run.start(slot)?;
                } else {
                    in_flight -= 1;
                }
            }
        }
        Ok(Done {
            requests: f64::from(done),
            seconds: start.elapsed().as_secs_f64(),
            latencies: None,
        })
    }
}

impl<'a> Run<'a> {
    fn new(load: &'a Load, size_bytes: u64) -> Self {
        let places = if load.random {
            Places::random
        } else {
            Places::in_order
        };
        Self {
            load,
            places: places(size_bytes, load.block_bytes as u64),
            requests: Vec::new(),
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
    fn start(&mut self, slot: usize) -> Result<()> {
        let offset = self.places.next().context("a disk without blocks")?;
        self.offsets[slot] = offset;
        let request = Request {
            command: if self.load.write {
                Command::Write
            } else {
                Command::Read
            },
            cookie: slot as u64,
            offset,
            len: self.load.block_bytes,
        };
        request.push(&mut self.requests);
        if self.load.write {
            let start = self.requests.len();
            self.requests.resize(start + self.load.block_bytes, 0x5a);
            stamp(&mut self.requests[start..], offset);
        }
        Ok(())
    }

    /// Takes replies apart, and returns the slots whose requests are done, and how many bytes the
    /// complete replies are.
    fn finish(&self, received: &[u8]) -> Result<(Vec<usize>, usize)> {
        let replies = received.chunks_exact(self.reply_bytes());
        let complete = received.len() - replies.remainder().len();
        let slots = replies.map(|reply| self.check(reply));
        Ok((slots.collect::<Result<_>>()?, complete))
    }

    /// The slot of a reply, which must be right.
    fn check(&self, reply: &[u8]) -> Result<usize> {
        let (reply, data) = reply.split_at(REPLY_BYTES);
        let cookie = reply_cookie(reply).with_context(|| self.load.to_string())?;
        let slot = usize::try_from(cookie)?;
        let offset = self.offsets.get(slot).context("a reply to no request")?;
        ensure!(
            self.load.write || data[..8] == block_start(*offset),
            "{}: wrong data at {offset}",
            self.load
        );
        Ok(slot)
    }
}
