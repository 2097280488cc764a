//! What a transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one virtio device's transport, shared with whoever reports them.
#[derive(Debug)]
pub struct TransportStatistics {
    name: String,
    interrupts: AtomicU64,
    doorbell_exits: AtomicU64,
}

impl TransportStatistics {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            interrupts: AtomicU64::new(0),
            doorbell_exits: AtomicU64::new(0),
        }
    }

    /// The device's name, `blk0` for example.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Interrupts sent to the driver.
    pub fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::Relaxed)
    }

    /// Doorbell writes that reached the program, instead of signalling the event directly.
    pub fn doorbell_exits(&self) -> u64 {
        self.doorbell_exits.load(Ordering::Relaxed)
    }

    pub(super) fn count_interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_doorbell_exit(&self) {
        self.doorbell_exits.fetch_add(1, Ordering::Relaxed);
    }
}
