//! The registers with which a driver describes one queue.

use std::io;
use std::sync::Arc;

use libc::{EFD_CLOEXEC, EFD_NONBLOCK};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// The three parts of a split virtqueue (virtio 1.2 section 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// The descriptor table.
    Descriptors,
    /// The available ring, which the driver writes.
    Driver,
    /// The used ring, which the device writes.
    Device,
}

/// Half of a 64-bit address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Low,
    High,
}

/// What the driver wrote about a queue. It is kept as written, and judged when the queue is enabled.
#[derive(Debug)]
pub(super) struct QueueSetup {
    max_size: u16,
    size: u16,
    enabled: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
    doorbell: Arc<EventFd>,
}

impl QueueSetup {
    pub(super) fn new(max_size: u16) -> io::Result<Self> {
        let doorbell = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let (descriptors, driver, device) = (0, 0, 0);
        Ok(Self {
            max_size,
            size: max_size,
            enabled: false,
            descriptors,
            driver,
            device,
            doorbell,
        })
    }

    pub(super) fn reset(&mut self) {
        self.size = self.max_size;
        self.enabled = false;
        (self.descriptors, self.driver, self.device) = (0, 0, 0);
    }

    pub(super) fn max_size(&self) -> u16 {
        self.max_size
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn set_size(&mut self, size: u16) {
        self.size = size;
    }

    pub(super) fn enabled(&self) -> bool {
        self.enabled
    }

    pub(super) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    pub(super) fn doorbell(&self) -> &Arc<EventFd> {
        &self.doorbell
    }

    pub(super) fn address(&self, area: Area) -> u64 {
        match area {
            Area::Descriptors => self.descriptors,
            Area::Driver => self.driver,
            Area::Device => self.device,
        }
    }

    pub(super) fn set_address(&mut self, area: Area, half: Half, value: u32) {
        let address = match area {
            Area::Descriptors => &mut self.descriptors,
            Area::Driver => &mut self.driver,
            Area::Device => &mut self.device,
        };
        *address = match half {
            Half::Low => (*address & !u64::from(u32::MAX)) | u64::from(value),
            Half::High => (*address & u64::from(u32::MAX)) | (u64::from(value) << 32),
        };
    }

    /// The queue as described, if its size and alignment are allowed (virtio 1.2 section 2.7) and all
    /// of it lies in `memory`.
    pub(super) fn rings(&self, memory: &GuestMemoryMmap, event_idx: bool) -> Option<Queue> {
        let mut rings = Queue::new(self.max_size).ok()?;
        rings.try_set_size(self.size).ok()?;
        rings
            .try_set_desc_table_address(GuestAddress(self.descriptors))
            .ok()?;
        rings
            .try_set_avail_ring_address(GuestAddress(self.driver))
            .ok()?;
        rings
            .try_set_used_ring_address(GuestAddress(self.device))
            .ok()?;
        rings.set_event_idx(event_idx);
        rings.set_ready(true);
        rings.is_valid(memory).then_some(rings)
    }
}
