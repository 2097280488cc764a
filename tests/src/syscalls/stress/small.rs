//! Threads with little stack, as runtimes of other languages make them.

use std::os::unix::fs::FileExt as _;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use rustix::fs::{SeekFrom, seek};
use rustix::io::write;
use rustix::process::getpid;

use super::{Worker, count};

/// The least that the C library allows.
const STACK_BYTES: usize = 16 << 10;
const BUFFER_BYTES: usize = 1000;

/// One thread after the other, each for one write.
pub(super) fn come_and_go(worker: &mut Worker<'_>) -> Result<()> {
    let rounds = worker.rare_rounds();
    let file = worker.file("threads")?;
    for round in 0..rounds {
        on_small_stack(|| write_from_stack(&file, round))?;
        count(&worker.counts.threads_made);
    }
    Ok(())
}

/// One thread that goes on.
pub(super) fn stay(worker: &mut Worker<'_>) -> Result<()> {
    let file = worker.file("small")?;
    on_small_stack(|| {
        for round in 0..worker.rounds {
            write_from_stack(&file, round)?;
            count(&worker.counts.calls);
        }
        Ok(())
    })
}

fn on_small_stack(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(STACK_BYTES);
        let joined = builder.spawn_scoped(scope, work)?.join();
        joined.map_err(|_| anyhow!("the thread panicked"))?
    })
}

/// Writes a buffer that is on the stack at the file's end, and reads it.
fn write_from_stack(file: &std::fs::File, round: u64) -> Result<()> {
    let byte = round.to_le_bytes()[0];
    let buffer = [byte; BUFFER_BYTES];
    let process = getpid();
    ensure!(
        write(file, &buffer) == Ok(BUFFER_BYTES),
        "round {round}: write"
    );
    ensure!(
        buffer == [byte; BUFFER_BYTES],
        "round {round}: the buffer changed"
    );
    let end = seek(file, SeekFrom::Current(0))?;
    ensure!(
        end == (round + 1) * BUFFER_BYTES as u64 && getpid() == process,
        "round {round}: lseek: {end}, or another process"
    );
    let mut found = [0; BUFFER_BYTES];
    file.read_exact_at(&mut found, end - BUFFER_BYTES as u64)?;
    ensure!(found == buffer, "round {round}: other bytes were read");
    Ok(())
}
