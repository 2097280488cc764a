//! Ctrl-C and SIGTERM, for commands that have something to put in order before they end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether somebody wants the program to end. A second signal ends it at once.
#[derive(Clone)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over the signals from their default actions.
    pub(super) fn install() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // This one first: it looks whether an earlier signal has set what the other sets.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))
                .and_then(|_| flag::register(signal, Arc::clone(&asked)))
                .context("cannot install signal handlers")?;
        }
        Ok(Self(asked))
    }

    /// Does `work`, and drops it in the middle once somebody wants the program to end.
    pub(super) async fn stop<F: Future>(&self, work: F) -> Result<F::Output> {
        let mut work = pin!(work);
        poll_fn(|context| match self.check() {
            Ok(()) => work.as_mut().poll(context).map(Ok),
            Err(interrupted) => Poll::Ready(Err(interrupted)),
        })
        .await
    }

    /// An error once somebody wants the program to end.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}
