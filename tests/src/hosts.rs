//! The hosts that the tests of a program share: each test has one for itself while it runs.

use std::cell::OnceCell;
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

use crate::host::Host;
use crate::parts::Parts;

/// An emulated host has one processor; more of them than this machine has gain nothing, and each
/// takes memory.
const HOSTS_MAX: usize = 4;

thread_local! {
    /// The host of the test that this thread runs.
    static MINE: OnceCell<Lent> = const { OnceCell::new() };
}

static POOL: LazyLock<Pool> = LazyLock::new(Pool::default);

/// What guests are made of.
static PARTS: LazyLock<Result<Parts>> = LazyLock::new(Parts::for_tests);

/// Hosts that have been started. They end with the program.
#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<&'static Host>,
    started: usize,
    /// Why one could not be started. Trying again would make every test wait for the next failure.
    failure: Option<String>,
}

/// A host that goes back to the pool when its test, and with it its thread, has ended.
struct Lent(&'static Host);

impl Host {
    /// The host of the test that this thread runs: nobody else uses it meanwhile. As many are
    /// started as this machine has processors, at most, each by the first test that finds none.
    ///
    /// # Panics
    /// When it cannot be had: no guest test can run then.
    pub fn shared() -> &'static Self {
        MINE.with(|mine| mine.get_or_init(|| POOL.lend()).0)
    }
}

impl Pool {
    fn lend(&self) -> Lent {
        let mut state = self.lock();
        loop {
            if let Some(failure) = &state.failure {
                panic!("no host for guests: {failure}");
            }
            if let Some(host) = state.idle.pop() {
                return Lent(host);
            }
            if state.started < hosts_max() {
                state.started += 1;
                drop(state);
                return Lent(self.start());
            }
            state = self
                .returned
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn start(&self) -> &'static Host {
        let parts = PARTS.as_ref().map(Parts::clone);
        let host = parts
            .map_err(|error| format!("{error:#}"))
            .and_then(|parts| Host::start(parts).map_err(|error| format!("{error:#}")));
        match host {
            Ok(host) => Box::leak(Box::new(host)),
            Err(failure) => {
                self.lock().failure = Some(failure.clone());
                self.returned.notify_all();
                panic!("no host for guests: {failure}");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        POOL.lock().idle.push(self.0);
        POOL.returned.notify_one();
    }
}

fn hosts_max() -> usize {
    thread::available_parallelism().map_or(1, |count| count.get().min(HOSTS_MAX))
}
