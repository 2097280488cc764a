//! What a virtio device's registers mean, however a transport lays them out: feature negotiation, the
//! device status, the queues, reset (virtio 1.2 sections 2.1 to 2.5 and 3.1).

use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::GuestMemoryMmap;

use super::TransportStatistics;
use super::device::{Activation, ActiveQueue, Notifier, VirtioDevice};
use super::link::{Interrupt, Link};
use super::queue_setup::{Area, Half, QueueSetup};
use crate::Error;

/// The steps of the initialization, in order (virtio 1.2 section 3.1.1).
const STEPS: [u32; 4] = [
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_DRIVER_OK,
];

/// The device side of a virtio transport.
pub(super) struct Transport {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemoryMmap>,
    link: Arc<Link>,
    offered_features: u64,
    accepted_features: u64,
    /// The driver accepted a feature beyond those that have a bit.
    unknown_accepted: bool,
    /// Which 32 feature bits the driver looks at.
    pub(super) device_feature_select: u32,
    /// Which 32 feature bits the driver accepts.
    pub(super) driver_feature_select: u32,
    /// Which queue the queue registers are about.
    pub(super) queue_select: u32,
    status: u32,
    /// The device was activated or configured, and not reset since.
    touched: bool,
    queues: Vec<QueueSetup>,
}

impl Transport {
    /// A transport for `device`, which interrupts its driver with `interrupt`.
    ///
    /// # Errors
    /// When the device has more than `queue_limit` queues, or the host no more events.
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        interrupt: Arc<dyn Interrupt>,
        queue_limit: u16,
    ) -> Result<Self, Error> {
        let sizes = device.queue_sizes();
        if sizes.len() > usize::from(queue_limit) {
            return Err(Error::TooManyQueues {
                device: device.name().to_owned(),
                queues: sizes.len(),
                limit: queue_limit.into(),
            });
        }
        let queues = sizes
            .iter()
            .map(|size| QueueSetup::new(*size))
            .collect::<Result<_, _>>();
        let queues = queues.map_err(|source| Error::Host {
            device: device.name().to_owned(),
            operation: "make an event for a queue",
            source,
        })?;
        let statistics = Arc::new(TransportStatistics::new(device.name()));
        Ok(Self {
            link: Arc::new(Link::new(interrupt, statistics)),
            offered_features: device.features() | 1 << VIRTIO_F_VERSION_1,
            device,
            memory,
            accepted_features: 0,
            unknown_accepted: false,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            status: 0,
            touched: false,
            queues,
        })
    }

    pub(super) fn name(&self) -> &str {
        self.device.name()
    }

    pub(super) fn device_type(&self) -> u16 {
        self.device.device_type()
    }

    pub(super) fn statistics(&self) -> &Arc<TransportStatistics> {
        self.link.statistics()
    }

    pub(super) fn config_generation(&self) -> u8 {
        self.link.config_generation()
    }

    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.device.read_config(offset, data);
    }

    pub(super) fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.touched = true;
        self.device.write_config(offset, data);
    }

    /// The 32 offered feature bits that the driver selected.
    pub(super) fn device_features(&self) -> u32 {
        half_of(self.offered_features, self.device_feature_select)
    }

    /// The 32 accepted feature bits that the driver selected.
    pub(super) fn driver_features(&self) -> u32 {
        half_of(self.accepted_features, self.driver_feature_select)
    }

    /// Accepts 32 feature bits; what is accepted stays so once `FEATURES_OK` is set
    /// (virtio 1.2 section 2.2).
    pub(super) fn set_driver_features(&mut self, value: u32) {
        if self.status & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            return;
        }
        let value = u64::from(value);
        let low = u64::from(u32::MAX);
        match self.driver_feature_select {
            0 => self.accepted_features = self.accepted_features & !low | value,
            1 => self.accepted_features = self.accepted_features & low | value << 32,
            // There are no such features; accepting one is refused as any unknown feature is.
            _ => self.unknown_accepted |= value != 0,
        }
    }

    /// The device status register.
    pub(super) fn status(&self) -> u32 {
        let broken = if self.link.broken() {
            VIRTIO_CONFIG_S_NEEDS_RESET
        } else {
            0
        };
        self.status | broken
    }

    /// Writes the device status register. Zero resets; other than that a driver can only add bits,
    /// in the order of virtio 1.2 section 3.1.1, and those out of order stay clear.
    pub(super) fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        self.status |= value & VIRTIO_CONFIG_S_FAILED;
        for step in STEPS {
            if self.status & step == 0 && (value & step == 0 || !self.advance(step)) {
                return;
            }
        }
    }

    /// Takes one step of the initialization, and returns whether it is done.
    fn advance(&mut self, step: u32) -> bool {
        if self.status & VIRTIO_CONFIG_S_FAILED != 0 || self.link.broken() {
            return false;
        }
        if step == VIRTIO_CONFIG_S_FEATURES_OK && !self.features_acceptable() {
            return false;
        }
        self.status |= step;
        if step == VIRTIO_CONFIG_S_DRIVER_OK {
            self.activate();
        }
        true
    }

    fn features_acceptable(&self) -> bool {
        !self.unknown_accepted
            && self.accepted_features & !self.offered_features == 0
            && self.accepted(VIRTIO_F_VERSION_1)
    }

    fn accepted(&self, feature: u32) -> bool {
        self.accepted_features >> feature & 1 != 0
    }

    fn activate(&mut self) {
        let event_idx = self.accepted(VIRTIO_RING_F_EVENT_IDX);
        let queues = (0..).zip(&self.queues).filter(|(_, setup)| setup.enabled());
        let queues = queues.filter_map(|(index, setup)| {
            let rings = setup.rings(&self.memory, event_idx)?;
            Some(ActiveQueue {
                index,
                rings,
                doorbell: Arc::clone(setup.doorbell()),
            })
        });
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            features: self.accepted_features,
            queues: queues.collect(),
            notifier: Arc::clone(&self.link) as Arc<dyn Notifier>,
        };
        self.touched = true;
        if let Err(error) = self.device.activate(activation) {
            tracing::warn!(device = self.name(), %error, "the device cannot start");
            self.link.needs_reset();
        }
    }

    fn running(&self) -> bool {
        self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0
    }

    /// Marks the device as broken by its driver: it stops, and waits for a reset.
    pub(super) fn fail(&mut self, reason: &str) {
        if self.link.broken() {
            return;
        }
        tracing::debug!(device = self.name(), reason, "the driver broke the device");
        self.stop();
        self.link.set_broken(true);
        // A driver that has not said that it runs is not interrupted (section 2.1.2).
        if self.running() {
            self.link.needs_reset();
        }
    }

    /// Makes the device let go of its queues and of what the driver configured.
    fn stop(&mut self) {
        if std::mem::take(&mut self.touched) {
            self.device.reset();
        }
    }

    fn reset(&mut self) {
        self.stop();
        self.status = 0;
        self.accepted_features = 0;
        self.unknown_accepted = false;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(QueueSetup::reset);
        self.link.set_broken(false);
    }

    pub(super) fn queues(&self) -> &[QueueSetup] {
        &self.queues
    }

    /// The queue that the driver selected, if there is such a queue.
    pub(super) fn queue(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// The selected queue, while the driver may still describe it.
    fn queue_mut(&mut self) -> Option<&mut QueueSetup> {
        let index = usize::try_from(self.queue_select).ok()?;
        let frozen = self.running();
        self.queues
            .get_mut(index)
            .filter(|setup| !frozen && !setup.enabled())
    }

    pub(super) fn set_queue_size(&mut self, size: u16) {
        if let Some(setup) = self.queue_mut() {
            setup.set_size(size);
        }
    }

    pub(super) fn set_queue_address(&mut self, area: Area, half: Half, value: u32) {
        if let Some(setup) = self.queue_mut() {
            setup.set_address(area, half, value);
        }
    }

    /// Enables the selected queue. One that is not wholly in memory breaks the device.
    pub(super) fn enable_queue(&mut self) {
        let memory = Arc::clone(&self.memory);
        let Some(setup) = self.queue_mut() else {
            return;
        };
        if setup.rings(&memory, false).is_some() {
            setup.set_enabled(true);
        } else {
            self.fail("a queue is not a queue in memory");
        }
    }

    /// Disables the selected queue. A device that runs stops as a whole, because the driver may take
    /// back the queue's memory at once (virtio 1.2 section 4.2.3.2).
    pub(super) fn disable_queue(&mut self) {
        if !self.queue().is_some_and(QueueSetup::enabled) {
            return;
        }
        if self.running() {
            self.fail("a queue was taken from a running device");
        }
        let index = self.queue_select;
        if let Some(setup) = usize::try_from(index)
            .ok()
            .and_then(|at| self.queues.get_mut(at))
        {
            setup.set_enabled(false);
        }
    }

    /// Rings the doorbell of `queue`, for a write that came here instead of to the event.
    pub(super) fn ring(&self, queue: u32) {
        self.statistics().count_doorbell_exit();
        let setup = usize::try_from(queue)
            .ok()
            .and_then(|index| self.queues.get(index));
        if let Some(setup) = setup
            && let Err(error) = setup.doorbell().write(1)
        {
            // The counter is full, so the device has been told often enough.
            tracing::debug!(device = self.name(), %error, "cannot ring the doorbell");
        }
    }
}

/// The 32 feature bits that `select` names.
fn half_of(features: u64, select: u32) -> u32 {
    let half = features.checked_shr(select.saturating_mul(32)).unwrap_or(0);
    u32::try_from(half & u64::from(u32::MAX)).unwrap_or(0)
}
