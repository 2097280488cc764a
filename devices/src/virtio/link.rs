//! The way from a device back to its driver, the same on every transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::TransportStatistics;
use super::device::Notifier;

/// What an interrupt is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Used buffers are in this queue.
    Queue(u16),
    /// The configuration or the device status changed.
    Config,
}

/// How a transport interrupts the driver.
pub(super) trait Interrupt: Send + Sync {
    /// Interrupts the driver, and returns whether the driver listens to `cause`.
    fn raise(&self, cause: Cause) -> bool;
}

/// The state that a device changes from its own threads.
pub(super) struct Link {
    interrupt: Arc<dyn Interrupt>,
    statistics: Arc<TransportStatistics>,
    broken: AtomicBool,
    config_generation: AtomicU8,
}

impl Link {
    pub(super) fn new(interrupt: Arc<dyn Interrupt>, statistics: Arc<TransportStatistics>) -> Self {
        Self {
            interrupt,
            statistics,
            broken: AtomicBool::new(false),
            config_generation: AtomicU8::new(0),
        }
    }

    pub(super) fn statistics(&self) -> &Arc<TransportStatistics> {
        &self.statistics
    }

    /// Changes whenever the configuration space did (virtio 1.2 section 2.5.1).
    pub(super) fn config_generation(&self) -> u8 {
        self.config_generation.load(Ordering::Acquire)
    }

    /// Whether the device needs a reset.
    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Sets or clears the need for a reset without telling the driver.
    pub(super) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Release);
    }

    fn raise(&self, cause: Cause) {
        if self.interrupt.raise(cause) {
            self.statistics.count_interrupt();
        }
    }
}

impl Notifier for Link {
    fn queue_used(&self, queue: u16) {
        self.raise(Cause::Queue(queue));
    }

    fn config_changed(&self) {
        self.config_generation.fetch_add(1, Ordering::AcqRel);
        self.raise(Cause::Config);
    }

    fn needs_reset(&self) {
        self.set_broken(true);
        self.raise(Cause::Config);
    }
}
