//! A disk with heads that an emulated host can have: an NBD server of a simulated disk, which takes as
//! long in real time as the simulated disk does in virtual time.
//!
//! ```text
//!  emulated host   /dev/vdX ── QEMU's NBD client ══ unix socket ══ Hdd ── SimulatedStorage
//! ```
//! So it is the same disk as that of `bench cache`. It does one thing at a time, in the order in which
//! it is asked.

use std::io::BufReader;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::disk::{Backend, Buffers, Disk, Executor, LatencyModel, Raw, Request, SimulatedStorage};
use anyhow::{Context as _, Result, ensure};

use super::counts::Counts;
use super::wire::{self, Errno, Wish};

/// The disk, and the thread that serves it as long as this program runs.
pub(super) struct Hdd {
    shared: Arc<Mutex<Shared>>,
    size_bytes: u64,
}

#[derive(Default)]
struct Shared {
    /// What the disk is to hold from the next request on.
    content: Option<Vec<u8>>,
    counts: Counts,
}

impl Hdd {
    /// Listens for an emulator at `socket`, with a disk of zeros.
    pub(super) fn start(socket: &Path, size_bytes: u64) -> Result<Self> {
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("{}: cannot listen", socket.display()))?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let server = Server {
            shared: Arc::clone(&shared),
            size_bytes,
        };
        thread::spawn(move || server.serve(&listener));
        Ok(Self { shared, size_bytes })
    }

    /// Puts a raw image of its size on the disk, in no time, with the heads where they are at first.
    pub(super) fn hold(&self, image: &Path) -> Result<()> {
        let content = std::fs::read(image).with_context(|| format!("{}", image.display()))?;
        ensure!(
            content.len() as u64 == self.size_bytes,
            "{}: has {} bytes, and the disk {}",
            image.display(),
            content.len(),
            self.size_bytes
        );
        lock(&self.shared).content = Some(content);
        Ok(())
    }

    /// What it has done so far.
    pub(super) fn counts(&self) -> Counts {
        lock(&self.shared).counts
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// On the thread that serves.
struct Server {
    shared: Arc<Mutex<Shared>>,
    size_bytes: u64,
}

impl Server {
    /// Serves one client after the other. QEMU says what it misses when one fails.
    fn serve(&self, listener: &UnixListener) {
        for stream in listener.incoming() {
            let served = stream
                .map_err(Into::into)
                .and_then(|stream| self.client(stream));
            if let Err(error) = served {
                eprintln!("xtask: the simulated disk: {error:#}");
            }
        }
    }

    fn client(&self, mut stream: UnixStream) -> Result<()> {
        if !wire::shake_hands(&mut stream, self.size_bytes)? {
            return Ok(());
        }
        let mut requests = BufReader::new(stream.try_clone()?);
        let mut disk = Simulated::new(SimulatedStorage::new(self.size_bytes, 1))?;
        loop {
            let (cookie, wish) = wire::next_wish(&mut requests)?;
            if let Some(content) = lock(&self.shared).content.take() {
                disk = Simulated::new(SimulatedStorage::from_bytes(&content, 1))?;
            }
            if wish == Wish::End {
                return Ok(());
            }
            let begin = Instant::now();
            let mut counts = Counts::default();
            let outcome = disk.perform(wish, &mut counts);
            let busy = Duration::from_nanos(counts.busy_ns);
            thread::sleep(busy.saturating_sub(begin.elapsed()));
            lock(&self.shared).counts += counts;
            wire::reply(&mut stream, cookie, &outcome)?;
        }
    }
}

/// A disk in virtual time.
struct Simulated {
    executor: Executor,
    disk: Rc<dyn Disk>,
}

impl Simulated {
    fn new(storage: SimulatedStorage) -> Result<Self> {
        storage.set_latency(LatencyModel::hdd());
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 })?;
        let disk = executor.run(async { Raw::new(storage) })?;
        let disk = Rc::new(disk);
        Ok(Self { executor, disk })
    }

    /// Does what a client wants, and counts it. Nobody else uses the disk, so virtual time passes only
    /// while it works.
    fn perform(&mut self, wish: Wish, counts: &mut Counts) -> Result<Vec<u8>, Errno> {
        let (request, read) = match wish {
            Wish::Read { offset, len } => {
                counts.reads = 1;
                counts.read_bytes = len as u64;
                let buffers = Buffers::zeroed(len);
                (Request::read(offset, buffers.clone()), Some(buffers))
            }
            Wish::Write { offset, data } => {
                counts.writes = 1;
                counts.written_bytes = data.len() as u64;
                (Request::write(offset, Buffers::from_vec(data)), None)
            }
            Wish::Flush => {
                counts.flushes = 1;
                (Request::flush(), None)
            }
            Wish::Other | Wish::End => return Err(Errno::Invalid),
        };
        let now_ns = || self.executor.virtual_now_ns().unwrap_or(0);
        let begin_ns = now_ns();
        let outcome = self.executor.run(self.disk.submit(request));
        counts.busy_ns = now_ns() - begin_ns;
        match outcome {
            Ok(()) => Ok(read.map_or_else(Vec::new, |buffers| buffers.to_vec())),
            Err(_) => Err(Errno::Io),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::nbd::{Command, REPLY_BYTES, Request as Sent, connect, reply_cookie};
    use std::io::{Read as _, Write as _};

    const SIZE: u64 = 1 << 20;

    fn ask(stream: &mut UnixStream, command: Command, offset: u64, data: &[u8]) -> Vec<u8> {
        let len = if command == Command::Flush { 0 } else { 4096 };
        let mut bytes = Vec::new();
        let request = Sent {
            command,
            cookie: 7,
            offset,
            len,
        };
        request.push(&mut bytes);
        bytes.extend(data);
        stream.write_all(&bytes).unwrap();
        let read = if command == Command::Read { len } else { 0 };
        let mut reply = vec![0; REPLY_BYTES + read];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply_cookie(&reply[..REPLY_BYTES]).unwrap(), 7);
        reply.split_off(REPLY_BYTES)
    }

    #[test]
    fn a_client_finds_what_was_put_there_and_what_it_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, image) = (
            directory.path().join("socket"),
            directory.path().join("image"),
        );
        let hdd = Hdd::start(&socket, SIZE).unwrap();
        let (mut stream, size_bytes) = connect(&socket).unwrap();
        assert_eq!(size_bytes, SIZE);
        assert_eq!(ask(&mut stream, Command::Read, 0, &[]), [0; 4096]);
        std::fs::write(&image, vec![5; 1 << 20]).unwrap();
        hdd.hold(&image).unwrap();
        assert_eq!(ask(&mut stream, Command::Read, 8192, &[]), [5; 4096]);
        ask(&mut stream, Command::Write, 8192, &[6; 4096]);
        ask(&mut stream, Command::Flush, 0, &[]);
        assert_eq!(ask(&mut stream, Command::Read, 8192, &[]), [6; 4096]);
        let counts = hdd.counts();
        assert_eq!((counts.reads, counts.read_bytes), (3, 3 * 4096));
        assert_eq!((counts.writes, counts.flushes), (1, 1));
        // A flush alone takes a turn of the disk.
        assert!(counts.busy_ns > 8_300_000);
        std::fs::write(&image, [5]).unwrap();
        assert!(hdd.hold(&image).is_err());
    }
}
