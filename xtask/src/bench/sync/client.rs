//! A client that waits for each of its requests, as a guest that wants to be sure does.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::load::{Load, Target};
use crate::bench::interrupt::Interrupt;
use crate::bench::nbd::{Command, REPLY_BYTES, Request, connect, reply_cookie, stamp};
use crate::bench::places::Places;

/// What came of a run.
#[derive(Clone, Debug)]
pub(super) struct Done {
    /// How long each write took, with its flush, in microseconds.
    pub(super) latencies_us: Vec<f64>,
    pub(super) seconds: f64,
}

impl Done {
    #[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
    pub(super) fn writes(&self) -> f64 {
        self.latencies_us.len() as f64
    }
}

/// When a run ends, whichever comes first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) time: Duration,
    pub(super) writes: u64,
}

/// The connections to a server.
pub(super) struct Clients(Vec<Client>);

struct Client {
    stream: UnixStream,
    /// The request that is being sent, with its data.
    message: Vec<u8>,
    cookie: u64,
}

/// What the clients of a run share.
struct Run<'a> {
    load: &'a Load,
    places: &'a Places,
    limit: Limit,
    start: Instant,
    begun: AtomicU64,
    interrupt: &'a Interrupt,
}

impl Clients {
    /// Makes as many connections as the load needs.
    pub(super) fn connect(socket: &Path, load: &Load) -> Result<Self> {
        let connect = |_| {
            let (stream, _) = connect(socket)?;
            Ok(Client {
                stream,
                message: Vec::new(),
                cookie: 0,
            })
        };
        Ok(Self(
            (0..load.connections).map(connect).collect::<Result<_>>()?,
        ))
    }

    /// Writes, and flushes if the load does, until the limit.
    pub(super) fn run(
        &mut self,
        load: &Load,
        places: &Places,
        limit: Limit,
        interrupt: &Interrupt,
    ) -> Result<Done> {
        let run = Run {
            load,
            places,
            limit,
            start: Instant::now(),
            begun: AtomicU64::new(0),
            interrupt,
        };
        let latencies_us = match &mut self.0[..] {
            [only] => only.run(&run)?,
            clients => thread::scope(|scope| {
                let run = &run;
                let threads: Vec<_> = clients
                    .iter_mut()
                    .map(|client| scope.spawn(move || client.run(run)))
                    .collect();
                threads.into_iter().try_fold(Vec::new(), |mut all, thread| {
                    let one = thread.join().map_err(|_| anyhow!("a client panicked"))?;
                    all.extend(one?);
                    Ok::<_, anyhow::Error>(all)
                })
            })?,
        };
        ensure!(
            !latencies_us.is_empty(),
            "{load}: no place is left to write to"
        );
        Ok(Done {
            latencies_us,
            seconds: run.start.elapsed().as_secs_f64(),
        })
    }
}

impl Client {
    fn run(&mut self, run: &Run<'_>) -> Result<Vec<f64>> {
        let mut latencies_us = Vec::new();
        let len = run.load.block_bytes;
        while run.start.elapsed() < run.limit.time {
            run.interrupt.check()?;
            if run.begun.fetch_add(1, Ordering::Relaxed) >= run.limit.writes {
                break;
            }
            let Some(offset) = run.places.next() else {
                break;
            };
            let begun = Instant::now();
            if run.load.target == Target::Discarded {
                let cluster_bytes = usize::try_from(run.load.step_bytes())?;
                self.ask(Command::Trim, offset, cluster_bytes)?;
            }
            self.ask(Command::Write, offset, len)?;
            if run.load.flush {
                self.ask(Command::Flush, 0, 0)?;
            }
            latencies_us.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        Ok(latencies_us)
    }

    /// Sends a request, and waits until it is done.
    fn ask(&mut self, command: Command, offset: u64, len: usize) -> Result<()> {
        self.cookie += 1;
        self.message.clear();
        let request = Request {
            command,
            cookie: self.cookie,
            offset,
            len,
        };
        request.push(&mut self.message);
        if command == Command::Write {
            let start = self.message.len();
            self.message.resize(start + len, 0x5a);
            stamp(&mut self.message[start..], offset);
        }
        self.stream.write_all(&self.message)?;
        let mut reply = [0; REPLY_BYTES];
        self.stream.read_exact(&mut reply)?;
        ensure!(
            reply_cookie(&reply)? == self.cookie,
            "a reply to another request"
        );
        Ok(())
    }
}
