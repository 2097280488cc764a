//! Writes of random sizes, and reads of what they wrote.

use anyhow::{Result, ensure};
use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::read;
use rustix::process::{getpid, getppid};

use super::{Worker, count};

/// Mostly small, as programs write; now and then over several pages.
const SMALL_BYTES_MAX: usize = 9000;
const LARGE_BYTES_MAX: usize = 100_000;

pub(super) fn write(worker: &mut Worker<'_>) -> Result<()> {
    let file = worker.file("data")?;
    let (process, parent, inode) = (getpid(), getppid(), fstat(&file)?.st_ino);
    let mut found = vec![0; LARGE_BYTES_MAX];
    let mut end = 0;
    for round in 0..worker.rounds {
        let bytes_max = match worker.numbers.below(16) {
            0 => LARGE_BYTES_MAX,
            _ => SMALL_BYTES_MAX,
        };
        let bytes = pattern(worker.numbers.size(1, bytes_max), worker.numbers.draw());
        let before = bytes.clone();
        let written = rustix::io::write(&file, &bytes);
        ensure!(
            written == Ok(bytes.len()),
            "round {round}: write: {written:?}"
        );
        ensure!(bytes == before, "round {round}: write changed its buffer");
        end += bytes.len() as u64;
        let start = seek(&file, SeekFrom::Current(-offset(bytes.len())))?;
        ensure!(
            start + bytes.len() as u64 == end,
            "round {round}: lseek: {start}, and the end is at {end}"
        );
        let found = &mut found[..bytes.len()];
        let count_read = read(&file, &mut *found);
        ensure!(
            count_read == Ok(bytes.len()),
            "round {round}: read: {count_read:?}"
        );
        ensure!(found == bytes, "round {round}: other bytes were read");
        let status = fstat(&file)?;
        ensure!(
            status.st_ino == inode && status.st_size == offset(usize::try_from(end)?),
            "round {round}: fstat: {status:?}, and the end is at {end}"
        );
        ensure!(
            getpid() == process && getppid() == parent,
            "round {round}: getpid or getppid: another process"
        );
        (0..6).for_each(|_| count(&worker.counts.calls));
    }
    Ok(())
}

fn offset(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Bytes that follow from a number.
pub(in crate::syscalls) fn pattern(bytes: usize, number: u64) -> Vec<u8> {
    let words = (0..bytes.div_ceil(8) as u64).map(|at| number.wrapping_add(at * 0x1_0101_0101));
    let mut pattern: Vec<_> = words.flat_map(u64::to_le_bytes).collect();
    pattern.truncate(bytes);
    pattern
}
