//! Reads that wait while signals come.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Result, bail, ensure};
use rustix::io::{Errno, read, write};
use rustix::pipe::pipe;

use super::signals::{ELSEWHERE, INTERRUPTING, ThreadTimer};
use super::{Worker, count};

/// A read that a signal interrupts begins again, and nobody sees it.
pub(super) fn restarted(worker: &mut Worker<'_>) -> Result<()> {
    let (asked, ask) = pipe()?;
    let (answered, answer) = pipe()?;
    let timer = ThreadTimer::start(ELSEWHERE)?;
    let (over, signals) = (AtomicBool::new(false), timer.count);
    thread::scope(|scope| {
        let answers = scope.spawn(|| answer_late(&asked, &answer, signals, &over));
        let outcome = read_answers(worker, ask, &answered);
        over.store(true, Ordering::Relaxed);
        match (outcome, answers.join()) {
            (Err(error), _) => Err(error),
            (_, Ok(answers)) => answers,
            (_, Err(_)) => bail!("the other thread panicked"),
        }
    })
}

fn read_answers(worker: &Worker<'_>, ask: OwnedFd, answered: &OwnedFd) -> Result<()> {
    for round in 0..worker.rounds {
        let asked = round.to_le_bytes();
        ensure!(write(&ask, &asked) == Ok(8), "round {round}: cannot ask");
        let mut answer = [0; 8];
        let count_read = read(answered, &mut answer);
        ensure!(count_read == Ok(8), "round {round}: read: {count_read:?}");
        ensure!(answer == asked, "round {round}: another answer: {answer:?}");
        count(&worker.counts.restarts);
    }
    // That nothing more is asked ends the other thread.
    drop(ask);
    Ok(())
}

/// Answers when one signal more came to the reader, which waits for nothing else by then.
fn answer_late(
    asked: &OwnedFd,
    answer: &OwnedFd,
    signals: &AtomicU64,
    over: &AtomicBool,
) -> Result<()> {
    let mut round = [0; 8];
    while read(asked, &mut round)? == 8 {
        let seen = signals.load(Ordering::Relaxed);
        while signals.load(Ordering::Relaxed) == seen && !over.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        ensure!(write(answer, &round) == Ok(8), "cannot answer");
    }
    Ok(())
}

/// A read that a signal interrupts fails, where the handler was installed so; what comes then is
/// read as ever.
pub(super) fn interrupted(worker: &mut Worker<'_>) -> Result<()> {
    let (end, start) = pipe()?;
    for round in 0..worker.rounds {
        let mut bytes = round.to_le_bytes();
        let timer = ThreadTimer::start(INTERRUPTING)?;
        let outcome = read(&end, &mut bytes);
        drop(timer);
        ensure!(
            outcome == Err(Errno::INTR),
            "round {round}: read: {outcome:?}"
        );
        ensure!(
            bytes == round.to_le_bytes(),
            "round {round}: the buffer changed"
        );
        count(&worker.counts.interrupted);
        ensure!(write(&start, b"then") == Ok(4), "round {round}: write");
        let outcome = read(&end, &mut bytes);
        ensure!(
            outcome == Ok(4) && bytes.starts_with(b"then"),
            "round {round}: read then: {outcome:?}"
        );
    }
    Ok(())
}
