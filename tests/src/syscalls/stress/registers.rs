//! Calls with all registers and the whole stack known, from buffers anywhere on that.
#![expect(unsafe_code, reason = "makes system calls with every register set")]

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::fstat;
use rustix::process::{getpid, getppid};

use super::signals::{AlternateStack, ELSEWHERE, ThreadTimer, block};
use super::{Worker, count};
use crate::records::Numbers;
use crate::syscalls::probe::{Instruction, Registers, execute};
use crate::syscalls::stack::{BUFFER_BYTES_MAX, Below, RED_ZONE_BYTES, Stack};

pub(super) fn probe(worker: &mut Worker<'_>) -> Result<()> {
    // What is below the stack pointer stays only as long as no handler runs there.
    block()?;
    let _alternate_stack = AlternateStack::set()?;
    let _timer = ThreadTimer::start(ELSEWHERE)?;
    let file = worker.file("registers")?;
    let stacks: Result<Vec<_>> = Below::ALL.into_iter().map(Stack::new).collect();
    let mut stacks: Vec<_> = stacks?.into_iter().zip(Below::ALL).collect();
    for round in 0..worker.rounds {
        let (stack, below) = &mut stacks[worker.numbers.size(0, Below::ALL.len())];
        let mut round_of = Round {
            file: &file,
            numbers: &mut worker.numbers,
            stack,
            below: *below,
        };
        let outcome = round_of.run();
        outcome.with_context(|| format!("round {round}, below the stack: {below:?}"))?;
        count(&worker.counts.probes);
    }
    Ok(())
}

struct Round<'a> {
    file: &'a File,
    numbers: &'a mut Numbers,
    stack: &'a mut Stack,
    below: Below,
}

impl Round<'_> {
    fn run(&mut self) -> Result<()> {
        self.stack.fill(self.numbers)?;
        match self.numbers.below(5) {
            0 => self.answer()?,
            1 => self.seek()?,
            2 => self.status()?,
            3 => self.write()?,
            _ => self.read()?,
        }
        self.stack.check()
    }

    /// Makes a call whose first arguments are these. All other registers are random.
    fn call(&mut self, number: i64, arguments: [u64; 4]) -> Result<u64> {
        let registers = Registers {
            rax: number.cast_unsigned(),
            rdi: arguments[0],
            rsi: arguments[1],
            rdx: arguments[2],
            r10: arguments[3],
            ..Registers::random(self.numbers)
        };
        // SAFETY: all calls below name buffers that are there, of this length. Signals that come are
        // handled on the alternate stack.
        unsafe { execute(Instruction::Syscall, registers, self.stack) }
    }

    fn descriptor(&self) -> u64 {
        self.file.as_raw_fd().unsigned_abs().into()
    }

    fn answer(&mut self) -> Result<()> {
        let process = u64::from(getpid().as_raw_nonzero().get().unsigned_abs());
        let parent = getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
        ensure!(self.call(libc::SYS_getpid, [0; 4])? == process, "getpid");
        ensure!(
            self.call(libc::SYS_getppid, [0; 4])? == u64::from(parent.unsigned_abs()),
            "getppid"
        );
        Ok(())
    }

    fn seek(&mut self) -> Result<()> {
        let place = self.numbers.below(1 << 40);
        let arguments = [self.descriptor(), place, 0, 0];
        let found = self.call(libc::SYS_lseek, arguments)?;
        ensure!(found == place, "lseek: {found}, not {place}");
        Ok(())
    }

    fn status(&mut self) -> Result<()> {
        let mut status = vec![0_u64; size_of::<libc::stat>() / 8];
        let arguments = [self.descriptor(), status.as_mut_ptr() as u64, 0, 0];
        let result = self.call(libc::SYS_fstat, arguments)?;
        let expected = fstat(self.file)?;
        // The number of the file is the second word of the structure.
        ensure!(
            result == 0 && status[1] == expected.st_ino,
            "fstat: {result}, {status:?}"
        );
        Ok(())
    }

    /// Where a buffer is, as a distance below the stack pointer, and how long.
    fn place(&mut self) -> (usize, usize) {
        let distance_max = match self.below {
            Below::Known => BUFFER_BYTES_MAX,
            _ => RED_ZONE_BYTES,
        };
        let distance = self.numbers.size(1, distance_max + 1);
        (distance, self.numbers.size(1, distance + 1))
    }

    fn write(&mut self) -> Result<()> {
        let (distance, bytes) = self.place();
        let offset = self.numbers.below(1 << 20);
        let (address, known) = self.stack.buffer(distance, bytes);
        let expected = known.to_owned();
        let arguments = [self.descriptor(), address, bytes as u64, offset];
        let written = self.call(libc::SYS_pwrite64, arguments)?;
        ensure!(written == bytes as u64, "pwrite: {written}, not {bytes}");
        let mut found = vec![0; bytes];
        self.file.read_exact_at(&mut found, offset)?;
        ensure!(
            found == expected,
            "what was {distance} bytes below the stack pointer was not written"
        );
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let (distance, bytes) = self.place();
        let offset = self.numbers.below(1 << 20);
        let mut there = vec![0; bytes];
        for byte in &mut there {
            *byte = self.numbers.draw().to_le_bytes()[0];
        }
        self.file.write_all_at(&there, offset)?;
        let (address, known) = self.stack.buffer(distance, bytes);
        // The check of the stack looks whether just that was read.
        known.copy_from_slice(&there);
        let arguments = [self.descriptor(), address, bytes as u64, offset];
        let count_read = self.call(libc::SYS_pread64, arguments)?;
        ensure!(
            count_read == bytes as u64,
            "pread: {count_read}, not {bytes}"
        );
        Ok(())
    }
}
