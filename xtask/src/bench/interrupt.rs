//! Ctrl-C and SIGTERM end a benchmark as an error does, so that it undoes what it set up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Context as _, Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Whether a signal has come. No benchmark goes on after one.
static HAS_COME: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Whether a signal has come since somebody has been looking for them.
pub(super) fn has_come() -> bool {
    HAS_COME.load(Ordering::Relaxed)
}

/// Whether somebody wants the benchmark to end.
pub(super) struct Interrupt(());

impl Interrupt {
    /// Takes over the signals.
    pub(super) fn install() -> Result<Self> {
        for signal in [SIGINT, SIGTERM] {
            // The second one ends what looks for none.
            signal_hook::flag::register_conditional_shutdown(signal, 1, HAS_COME.clone())
                .and_then(|_| signal_hook::flag::register(signal, HAS_COME.clone()))
                .context("cannot install a signal handler")?;
        }
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
