//! What a guest's write to a new cluster costs on a host file system, and what zeros ahead of it
//! save: `cargo run --release -p disk --example growth DIRECTORY...`
//!
//! Each write is of 4 KiB at the beginning of a new cluster of 64 KiB, and is synced. All ways take
//! turns, on files of their own. `ready` is the time of a write where everything ahead was prepared
//! and synced before. `growing` is the same with the preparation in it: by a thread, in pieces of
//! 256 KiB, 8 MiB ahead.
#![expect(unsafe_code, reason = "std has no fallocate")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

const CLUSTER_BYTES: u64 = 64 << 10;
const PIECE_BYTES: u64 = 256 << 10;
/// The same.
const PIECE_LEN: usize = 256 << 10;
const AHEAD_BYTES: u64 = 8 << 20;
/// Clusters a way writes to in its turn: those of one step.
const TURN: u64 = AHEAD_BYTES / CLUSTER_BYTES;
const TURNS: usize = 9;
const FALLOC_FL_WRITE_ZEROES: libc::c_int = 0x80;

/// How the room for a write is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Nothing,
    Size,
    Fallocate,
    WriteZeroesFlag,
    Buffered,
    Direct,
}

const WAYS: [Way; 6] = [
    Way::Nothing,
    Way::Size,
    Way::Fallocate,
    Way::WriteZeroesFlag,
    Way::Buffered,
    Way::Direct,
];

/// Memory that `O_DIRECT` takes.
#[repr(align(4096))]
struct Zeros([u8; PIECE_LEN]);

static ZEROS: Zeros = Zeros([0; PIECE_LEN]);

/// A file, and another descriptor of it for zeros.
struct Target {
    file: File,
    zeros: File,
    way: Way,
}

impl Target {
    fn new(directory: &Path, way: Way) -> io::Result<Self> {
        let path = directory.join(format!("growth-{way:?}"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(&path)?;
        let flags = if way == Way::Direct {
            libc::O_DIRECT
        } else {
            0
        };
        let zeros = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(&path);
        std::fs::remove_file(&path)?;
        let zeros = zeros?;
        Ok(Self { file, zeros, way })
    }

    fn allocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        let of = |n: u64| libc::off_t::try_from(n).map_err(io::Error::other);
        // SAFETY: takes no pointers.
        match unsafe { libc::fallocate(self.zeros.as_raw_fd(), mode, of(offset)?, of(len)?) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes room in one piece, within a step that was begun.
    fn prepare_piece(&self, offset: u64) -> io::Result<()> {
        match self.way {
            Way::Nothing | Way::Size => Ok(()),
            Way::Fallocate => self.allocate(0, offset, PIECE_BYTES),
            Way::WriteZeroesFlag => self.allocate(FALLOC_FL_WRITE_ZEROES, offset, PIECE_BYTES),
            Way::Buffered | Way::Direct => self.zeros.write_all_at(&ZEROS.0, offset),
        }
    }

    fn prepare(&self, start: u64) -> io::Result<()> {
        let end = start + AHEAD_BYTES;
        if !matches!(self.way, Way::Nothing) && self.file.metadata()?.len() < end {
            self.file.set_len(end)?;
        }
        (start..end)
            .step_by(usize::try_from(PIECE_BYTES).map_err(io::Error::other)?)
            .try_for_each(|offset| self.prepare_piece(offset))
    }

    /// Writes to each cluster of a step, and syncs; how long each took.
    fn turn(&self, start: u64, times: &mut Vec<Duration>) -> io::Result<()> {
        for n in 0..TURN {
            let begin = Instant::now();
            self.file
                .write_all_at(&[1; 4096], start + n * CLUSTER_BYTES)?;
            self.file.sync_data()?;
            times.push(begin.elapsed());
        }
        Ok(())
    }
}

/// Prepares steps, each when the one before it is begun.
fn grow(target: &Target, steps: &Receiver<u64>, done: &Sender<io::Result<()>>) {
    for start in steps {
        if done.send(target.prepare(start)).is_err() {
            return;
        }
    }
}

fn median_us(times: &mut [Duration]) -> u128 {
    times.sort_unstable();
    times[times.len() / 2].as_micros()
}

/// The median of writes with everything ready, in microseconds.
fn ready(target: &Target, turns: &mut Vec<Duration>, turn: usize) -> io::Result<()> {
    let start = turn as u64 * AHEAD_BYTES;
    target.prepare(start)?;
    target.file.sync_all()?;
    target.turn(start, turns)
}

/// The time of all writes, in microseconds each, with the preparation beside it.
fn growing(target: &Target) -> io::Result<u128> {
    let (ask, asked) = channel();
    let (done, is_done) = channel();
    let first = TURNS as u64 * AHEAD_BYTES;
    let failed = |()| io::Error::other("the thread is gone");
    thread::scope(|scope| {
        scope.spawn(move || grow(target, &asked, &done));
        let mut times = Vec::new();
        let begin = Instant::now();
        ask.send(first).map_err(|_| failed(()))?;
        for n in 0..4 {
            is_done.recv().map_err(|_| failed(()))??;
            ask.send(first + (n + 1) * AHEAD_BYTES)
                .map_err(|_| failed(()))?;
            target.turn(first + n * AHEAD_BYTES, &mut times)?;
        }
        let whole = begin.elapsed();
        drop(ask);
        Ok(whole.as_micros() / times.len() as u128)
    })
}

fn measure(directory: &Path) -> io::Result<()> {
    println!("{}", directory.display());
    println!("{:<16} {:>9} {:>11}", "", "ready us", "growing us");
    let mut targets = Vec::new();
    for way in WAYS {
        let target = Target::new(directory, way);
        match target.and_then(|target| target.prepare(0).map(|()| target)) {
            Ok(target) => targets.push((target, Vec::new(), Vec::new())),
            Err(error) => println!("{:<16} {error}", format!("{way:?}")),
        }
    }
    for turn in 0..TURNS {
        for (target, times, _) in &mut targets {
            ready(target, times, turn)?;
        }
    }
    for _ in 0..3 {
        for (target, _, wholes) in &mut targets {
            wholes.push(growing(target)?);
            target.file.set_len(TURNS as u64 * AHEAD_BYTES)?;
            target.file.sync_all()?;
        }
    }
    for (target, times, wholes) in &mut targets {
        wholes.sort_unstable();
        let (ready, growing) = (median_us(times), wholes[1]);
        println!(
            "{:<16} {ready:>9} {growing:>11}",
            format!("{:?}", target.way)
        );
    }
    Ok(())
}

fn main() -> io::Result<()> {
    std::env::args_os()
        .skip(1)
        .try_for_each(|directory| measure(Path::new(&directory)))
}
