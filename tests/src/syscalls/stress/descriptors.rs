//! Descriptors that come, go, and stand for another file the next moment.
#![expect(unsafe_code, reason = "uses descriptors by their numbers")]

use std::fs::File;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::FileExt as _;

use anyhow::{Result, bail, ensure};
use rustix::fs::fstat;

use super::files::pattern;
use super::{Worker, count};

/// Numbers that no other thread is given: the kernel takes the lowest that is free.
const FIRST: RawFd = 500;
const SLOTS: usize = 16;
const WRITE_BYTES_MAX: usize = 300;

/// A file that is only written through descriptors of changing numbers, and what must be in it.
struct Written {
    file: File,
    inode: u64,
    expected: Vec<u8>,
}

/// Which file each number stands for.
struct Table {
    files: [Written; 2],
    slots: [Option<usize>; SLOTS],
}

pub(super) fn churn(worker: &mut Worker<'_>) -> Result<()> {
    let open = |name| {
        let file = worker.file(name)?;
        let inode = fstat(&file)?.st_ino;
        anyhow::Ok(Written {
            file,
            inode,
            expected: Vec::new(),
        })
    };
    let mut table = Table {
        files: [open("first")?, open("second")?],
        slots: [None; SLOTS],
    };
    for round in 0..worker.rounds {
        let slot = worker.numbers.size(0, SLOTS);
        match worker.numbers.below(8) {
            0..3 => table.put(slot, worker.numbers.size(0, 2))?,
            3 => table.close(slot)?,
            4 if round % 8 == 0 => table.close_all()?,
            _ => {
                let size = worker.numbers.size(1, WRITE_BYTES_MAX);
                table.write(slot, &pattern(size, worker.numbers.draw()))?;
            }
        }
        count(&worker.counts.calls);
    }
    table.close_all()?;
    table.files.iter().try_for_each(Written::check)
}

fn number(slot: usize) -> RawFd {
    FIRST + RawFd::try_from(slot).unwrap_or(0)
}

impl Table {
    /// Has a number stand for a file, whatever it stood for before.
    fn put(&mut self, slot: usize, file: usize) -> Result<()> {
        let from = self.files[file].file.as_raw_fd();
        // SAFETY: nobody else uses this number.
        let moved = unsafe { libc::dup2(from, number(slot)) };
        ensure!(moved == number(slot), "dup2: {moved}");
        self.slots[slot] = Some(file);
        Ok(())
    }

    fn close(&mut self, slot: usize) -> Result<()> {
        // SAFETY: nobody else uses this number.
        let result = unsafe { libc::close(number(slot)) };
        let expected = if self.slots[slot].is_some() { 0 } else { -1 };
        ensure!(result == expected, "close of {}: {result}", number(slot));
        self.slots[slot] = None;
        Ok(())
    }

    fn close_all(&mut self) -> Result<()> {
        let last = number(SLOTS - 1);
        // SAFETY: nobody else uses these numbers.
        let result = unsafe { libc::syscall(libc::SYS_close_range, FIRST, last, 0) };
        ensure!(result == 0, "close_range: {result}");
        self.slots = [None; SLOTS];
        Ok(())
    }

    /// Writes by the number, which fails where it stands for nothing.
    fn write(&mut self, slot: usize, bytes: &[u8]) -> Result<()> {
        // SAFETY: the bytes are there, and the number is nobody else's.
        let written = unsafe { libc::write(number(slot), bytes.as_ptr().cast(), bytes.len()) };
        let Some(file) = self.slots[slot] else {
            ensure!(written == -1, "write to a closed descriptor: {written}");
            return Ok(());
        };
        ensure!(
            usize::try_from(written) == Ok(bytes.len()),
            "write: {written}"
        );
        let file = &mut self.files[file];
        file.expected.extend(bytes);
        // SAFETY: the number is open until this thread closes it.
        let shown = unsafe { std::os::fd::BorrowedFd::borrow_raw(number(slot)) };
        let inode = fstat(shown)?.st_ino;
        ensure!(inode == file.inode, "fstat: another file");
        Ok(())
    }
}

impl Written {
    fn check(&self) -> Result<()> {
        let mut found = vec![0; self.expected.len()];
        self.file.read_exact_at(&mut found, 0)?;
        let bytes = self.file.metadata()?.len();
        if found != self.expected || bytes != self.expected.len() as u64 {
            bail!("another file, or another offset, was written");
        }
        Ok(())
    }
}
