//! A queue as its device serves it: chains come out, answers go in, and the two sides disturb each
//! other as little as they agreed to (virtio 1.2 sections 2.7.7 and 2.7.10).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_AVAIL_F_NO_INTERRUPT};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::chain::{Chain, Violation};
use super::device::{ActiveQueue, Notifier};

/// A queue that is being served.
pub(crate) struct Virtqueue {
    index: u16,
    rings: Queue,
    memory: Arc<GuestMemoryMmap>,
    notifier: Arc<dyn Notifier>,
    /// Chains taken and not answered yet; never more than the queue's size.
    in_flight: u16,
    /// Whether the driver was asked to ring the doorbell.
    armed: bool,
}

impl Virtqueue {
    /// Checks that the rings lie in memory.
    pub(crate) fn new(
        queue: ActiveQueue,
        features: u64,
        memory: Arc<GuestMemoryMmap>,
        notifier: Arc<dyn Notifier>,
    ) -> Result<Self, Violation> {
        let ActiveQueue {
            index, mut rings, ..
        } = queue;
        rings.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        if !rings.is_valid(&*memory) {
            return Err(Violation::Rings);
        }
        Ok(Self {
            index,
            rings,
            memory,
            notifier,
            in_flight: 0,
            armed: true,
        })
    }

    /// The guest's memory.
    pub(crate) fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Takes the next chain. With none left, asks the driver to ring the doorbell for the next.
    pub(crate) fn pop(&mut self) -> Result<Option<Chain>, Violation> {
        let Some(chain) = self.next()? else {
            self.armed = true;
            if !self
                .rings
                .enable_notification(&*self.memory)
                .map_err(|_| Violation::Rings)?
            {
                return Ok(None);
            }
            // A chain came just before the doorbell was armed. That there is none now takes an
            // index that went back, which a driver never does and could do for ever.
            return self.next()?.ok_or(Violation::Overcommitted).map(Some);
        };
        Ok(Some(chain))
    }

    fn next(&mut self) -> Result<Option<Chain>, Violation> {
        let mut available = self
            .rings
            .iter(&*self.memory)
            .map_err(|_| Violation::Overcommitted)?;
        let Some(chain) = available.next() else {
            return Ok(None);
        };
        if self.in_flight >= self.rings.size() {
            return Err(Violation::Overcommitted);
        }
        self.in_flight += 1;
        let chain = Chain::read(chain, &self.memory)?;
        if self.armed {
            self.armed = false;
            self.rings
                .disable_notification(&*self.memory)
                .map_err(|_| Violation::Rings)?;
        }
        Ok(Some(chain))
    }

    /// Gives a chain back, `written_bytes` of which hold an answer, and says whether that
    /// interrupted the driver.
    pub(crate) fn push(&mut self, head: u16, written_bytes: u32) -> Result<bool, Violation> {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.rings
            .add_used(&*self.memory, head, written_bytes)
            .map_err(|_| Violation::Rings)?;
        let notify = self.wants_interrupt()?;
        if notify {
            self.notifier.queue_used(self.index);
        }
        Ok(notify)
    }

    /// Whether the driver wants to hear of what was used since it was last asked.
    fn wants_interrupt(&mut self) -> Result<bool, Violation> {
        // Orders the used index before what the driver wrote, with either kind of suppression.
        let wanted = self
            .rings
            .needs_notification(&*self.memory)
            .map_err(|_| Violation::Rings)?;
        if self.rings.event_idx_enabled() {
            return Ok(wanted);
        }
        let flags: u16 = self
            .memory
            .load(GuestAddress(self.rings.avail_ring()), Ordering::Relaxed)
            .map_err(|_| Violation::Rings)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }
}
