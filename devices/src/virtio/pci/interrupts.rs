//! Which MSI-X vector carries which event (virtio 1.2 section 4.1.5.1.2), and the interrupt status
//! for drivers without MSI-X (section 4.1.4.5).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use crate::pci::MsixSignals;
use crate::virtio::link::{Cause, Interrupt};

/// Says that an event has no vector (`VIRTIO_MSI_NO_VECTOR`).
const NO_VECTOR: u16 = 0xffff;

const STATUS_QUEUE: u8 = 1;
const STATUS_CONFIG: u8 = 2;

/// A function's interrupts, shared with the device's threads.
pub(super) struct PciInterrupts {
    signals: Arc<MsixSignals>,
    queues: Vec<AtomicU16>,
    config: AtomicU16,
    /// The interrupt status register. There is no line behind it; a driver may poll it.
    status: AtomicU8,
}

impl PciInterrupts {
    pub(super) fn new(signals: Arc<MsixSignals>, queue_count: usize) -> Self {
        let queues = (0..queue_count)
            .map(|_| AtomicU16::new(NO_VECTOR))
            .collect();
        Self {
            signals,
            queues,
            config: AtomicU16::new(NO_VECTOR),
            status: AtomicU8::new(0),
        }
    }

    pub(super) fn reset(&self) {
        for vector in self.queues.iter().chain([&self.config]) {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        self.status.store(0, Ordering::Release);
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config.load(Ordering::Acquire)
    }

    /// Sets the vector for configuration changes; one that does not exist reads back as none, which
    /// tells the driver that it did not work.
    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config.store(self.existing(vector), Ordering::Release);
    }

    pub(super) fn queue_vector(&self, queue: u32) -> u16 {
        self.queue(queue)
            .map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// Sets the vector for a queue, as [`PciInterrupts::set_config_vector`] does.
    pub(super) fn set_queue_vector(&self, queue: u32, vector: u16) {
        if let Some(slot) = self.queue(queue) {
            slot.store(self.existing(vector), Ordering::Release);
        }
    }

    /// Reads the interrupt status, which clears it.
    pub(super) fn take_status(&self) -> u8 {
        self.status.swap(0, Ordering::AcqRel)
    }

    fn queue(&self, queue: u32) -> Option<&AtomicU16> {
        self.queues.get(usize::try_from(queue).ok()?)
    }

    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.signals.len() {
            vector
        } else {
            NO_VECTOR
        }
    }
}

impl Interrupt for PciInterrupts {
    fn raise(&self, cause: Cause) -> bool {
        let (bit, vector) = match cause {
            Cause::Queue(queue) => (STATUS_QUEUE, self.queue_vector(queue.into())),
            Cause::Config => (STATUS_CONFIG, self.config_vector()),
        };
        if self.signals.enabled() {
            return self.signals.signal(vector);
        }
        self.status.fetch_or(bit, Ordering::AcqRel);
        false
    }
}
