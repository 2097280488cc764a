//! Ctrl-C and SIGTERM end a benchmark as an error does, so that it undoes what it set up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Context as _, Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether a signal has come while somebody was looking for them.
static HAS_COME: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Whether nobody looks for them: they do what they do by themselves then.
static IS_UNWATCHED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Whether somebody wants the benchmark to end. While there is one, signals wait to be asked for.
pub(super) struct Interrupt(());

/// Whether a signal has come since somebody has been looking for them.
pub(super) fn has_come() -> bool {
    HAS_COME.load(Ordering::Relaxed)
}

impl Interrupt {
    /// Takes over the signals.
    pub(super) fn install() -> Result<Self> {
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_default(signal, IS_UNWATCHED.clone())
                .and_then(|_| flag::register(signal, HAS_COME.clone()))
                .context("cannot install a signal handler")?;
        }
        IS_UNWATCHED.store(false, Ordering::Relaxed);
        let interrupt = Self(());
        interrupt.check()?;
        Ok(interrupt)
    }

    /// An error once a signal has come.
    #[expect(clippy::unused_self, reason = "the signals must have been taken over")]
    pub(super) fn check(&self) -> Result<()> {
        ensure!(!has_come(), "interrupted");
        Ok(())
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        IS_UNWATCHED.store(true, Ordering::Relaxed);
    }
}
