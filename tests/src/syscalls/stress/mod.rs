//! Threads that make system calls in every way that is awkward for somebody who makes calls of its own
//! in between, and look at every result.
//!
//! What is awkward: signals whose handlers make calls too, at any moment; calls that are begun again
//! after one, or fail with EINTR; little stack, none below it, or data there; registers that only the
//! caller knows; children that share memory or descriptors; descriptors that come and go.

mod children;
mod descriptors;
mod files;
mod pipes;
mod registers;
mod signals;
mod small;

pub(super) use files::pattern;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::records::Numbers;

/// Processes and threads are made so much more rarely than calls.
const RARE: u64 = 10;

/// How often each thing was done.
#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    restarts: AtomicU64,
    interrupted: AtomicU64,
    forks: AtomicU64,
    execs: AtomicU64,
    threads_made: AtomicU64,
    probes: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One of the threads: what it works on, and the numbers that decide what it does.
struct Worker<'a> {
    rounds: u64,
    numbers: Numbers,
    counts: &'a Counts,
    /// Each has its own files, whose names begin so.
    prefix: PathBuf,
}

impl Worker<'_> {
    /// A new file of this worker's. It is gone with the last descriptor.
    fn file(&self, name: &str) -> Result<File> {
        let mut path = self.prefix.clone().into_os_string();
        path.push(name);
        let path = Path::new(&path);
        let problem = || format!("{}: create", path.display());
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(path);
        let file = file.with_context(problem)?;
        std::fs::remove_file(path).with_context(problem)?;
        Ok(file)
    }

    /// How often what is rare is done.
    fn rare_rounds(&self) -> u64 {
        self.rounds.div_ceil(RARE)
    }
}

type Role = fn(&mut Worker<'_>) -> Result<()>;

/// What is done beside the writers of files, by one thread each.
const ROLES: [(&str, Role); 8] = [
    ("restarted reads", pipes::restarted),
    ("interrupted reads", pipes::interrupted),
    ("forks", children::forks),
    ("execs", children::execs),
    ("descriptors", descriptors::churn),
    ("new threads", small::come_and_go),
    ("a small stack", small::stay),
    ("registers", registers::probe),
];

/// Runs `threads` writers of files and one thread of each other kind.
pub(super) fn run(threads: usize, rounds: u64, seed: u64) -> Result<String> {
    ensure!(threads <= 64, "at most 64 threads write files");
    let counts = Counts::default();
    let files = (0..threads).map(|_| ("files", files::write as Role));
    let roles: Vec<_> = files.chain(ROLES).collect();
    let timer = signals::start()?;
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let start = |(number, (name, role)): (usize, &(&'static str, Role))| {
            let worker = Worker {
                rounds,
                numbers: Numbers::new(seed ^ ((number as u64) << 32)),
                counts: &counts,
                prefix: format!("stress-{}-{number}-", std::process::id()).into(),
            };
            (*name, spawn(scope, *role, worker))
        };
        let started: Vec<_> = roles.iter().enumerate().map(start).collect();
        // This thread only waits: the signals of the process are for the others.
        let blocked = signals::block();
        let ended = started.into_iter().map(|(name, handle)| {
            let outcome = handle.and_then(|handle| {
                let joined = handle.join();
                joined.map_err(|_| anyhow!("the thread panicked"))?
            });
            outcome.with_context(|| name.to_owned())
        });
        ended.chain([blocked]).collect()
    });
    drop(timer);
    outcomes.into_iter().collect::<Result<()>>()?;
    let signals = signals::handled()?;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(format!(
        "stress threads={threads} rounds={rounds} seed={seed} calls={} signals={signals} restarts={} \
         interrupted={} forks={} execs={} threads_made={} probes={}",
        read(&counts.calls),
        read(&counts.restarts),
        read(&counts.interrupted),
        read(&counts.forks),
        read(&counts.execs),
        read(&counts.threads_made),
        read(&counts.probes),
    ))
}

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    role: Role,
    mut worker: Worker<'scope>,
) -> Result<ScopedJoinHandle<'scope, Result<()>>> {
    Ok(Builder::new().spawn_scoped(scope, move || role(&mut worker))?)
}
