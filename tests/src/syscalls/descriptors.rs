//! Two threads that give the same few numbers of descriptors to other files all the time, read from
//! them, and look at every byte.
//!
//! The numbers are small ones, as programs have. A thread has a number to itself while it uses it: no
//! call is made while another changes what its descriptor stands for.
#![expect(unsafe_code, reason = "uses descriptors by their numbers")]

use std::fs::File;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::io::pread;

use super::stress::pattern;
use crate::records::Numbers;

/// No other descriptor has a number from here on.
const FIRST: RawFd = 20;
const SLOTS: usize = 8;
const THREADS: u64 = 2;
const FILE_BYTES: usize = 64 << 10;
const READ_BYTES_MAX: usize = 4096;

/// What descriptors stand for.
struct Source {
    file: File,
    /// What is read from it.
    content: Vec<u8>,
    read_bytes: AtomicU64,
}

/// Which source each number stands for.
type Slots = [Mutex<Option<usize>>; SLOTS];

/// Makes two files in a directory, and says how many bytes it has read of each.
pub(super) fn run(directory: &Path, rounds: u64, seed: u64) -> Result<String> {
    let zeros = Source {
        file: File::options()
            .read(true)
            .write(true)
            .open("/dev/zero")
            .context("/dev/zero")?,
        content: vec![0; FILE_BYTES],
        read_bytes: AtomicU64::new(0),
    };
    let sources = [
        source(&directory.join("first"), seed)?,
        source(&directory.join("second"), !seed)?,
        zeros,
    ];
    let slots: Slots = Default::default();
    thread::scope(|scope| {
        let start = |number: u64| {
            let numbers = Numbers::new(seed ^ (number << 32));
            scope.spawn(|| churn(&sources, &slots, rounds, numbers))
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        threads.into_iter().try_for_each(|thread| {
            let joined = thread.join();
            joined.map_err(|_| anyhow!("the thread panicked"))?
        })
    })?;
    let read = |number: usize| sources[number].read_bytes.load(Ordering::Relaxed);
    Ok(format!("descriptors first={} second={}", read(0), read(1)))
}

fn source(path: &Path, seed: u64) -> Result<Source> {
    let problem = || path.display().to_string();
    let content = pattern(FILE_BYTES, seed);
    std::fs::write(path, &content).with_context(problem)?;
    Ok(Source {
        file: File::open(path).with_context(problem)?,
        content,
        read_bytes: AtomicU64::new(0),
    })
}

fn churn(sources: &[Source; 3], slots: &Slots, rounds: u64, mut numbers: Numbers) -> Result<()> {
    for round in 0..rounds {
        let slot = numbers.size(0, SLOTS);
        let fd = FIRST + RawFd::try_from(slot)?;
        let mut stands_for = slots[slot].lock().unwrap_or_else(PoisonError::into_inner);
        let problem = || format!("round {round}, descriptor {fd}");
        match numbers.below(8) {
            0 => {
                let source = numbers.size(0, sources.len());
                *stands_for = None;
                put(&sources[source].file, fd).with_context(problem)?;
                *stands_for = Some(source);
            }
            1 | 2 => {
                let source = numbers.size(0, sources.len());
                if stands_for.take().is_some() {
                    // SAFETY: this thread has the number to itself.
                    ensure!(unsafe { libc::close(fd) } == 0, "{}: close", problem());
                }
                put_where_nothing_is(&sources[source].file, fd).with_context(problem)?;
                *stands_for = Some(source);
            }
            _ => {
                if let Some(source) = *stands_for {
                    read(&sources[source], fd, &mut numbers).with_context(problem)?;
                }
            }
        }
    }
    Ok(())
}

/// Has a number stand for a file, whatever it stood for.
fn put(file: &File, fd: RawFd) -> Result<()> {
    // SAFETY: this thread has the number to itself.
    let moved = unsafe { libc::dup2(file.as_raw_fd(), fd) };
    ensure!(moved == fd, "dup2: {moved}");
    Ok(())
}

/// The same, where it stands for nothing, as for `open`.
fn put_where_nothing_is(file: &File, fd: RawFd) -> Result<()> {
    // SAFETY: it makes a descriptor.
    let made = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, fd) };
    ensure!(made == fd, "F_DUPFD: {made}");
    Ok(())
}

fn read(source: &Source, fd: RawFd, numbers: &mut Numbers) -> Result<()> {
    let mut found = vec![0xff; numbers.size(1, READ_BYTES_MAX)];
    let start = numbers.size(0, FILE_BYTES - found.len());
    // SAFETY: this thread has the number to itself, and it is open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(fd) };
    let count = pread(descriptor, &mut found, start as u64)?;
    ensure!(count == found.len(), "pread: {count} of {}", found.len());
    ensure!(
        found == source.content[start..start + count],
        "another file, or another place of it, was read"
    );
    source.read_bytes.fetch_add(count as u64, Ordering::Relaxed);
    Ok(())
}
