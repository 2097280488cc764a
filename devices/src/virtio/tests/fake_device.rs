//! A device that does nothing but hold its transport to the contract.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::Error;
use crate::virtio::{Activation, ActiveQueue, Notifier, VirtioDevice};

/// The features that the device offers: one in each half of the transport's registers.
pub(super) const FEATURES: u64 = 1 << 5 | 1 << 29;
/// The largest size of both queues.
pub(super) const QUEUE_SIZE: u16 = 64;
pub(super) const CONFIG_BYTES: usize = 16;

/// What happened to the device, and what it was given.
#[derive(Default)]
pub(super) struct Log {
    pub(super) activations: usize,
    pub(super) resets: usize,
    pub(super) features: u64,
    pub(super) queues: Vec<ActiveQueue>,
    pub(super) notifier: Option<Arc<dyn Notifier>>,
    pub(super) refuse_activation: bool,
    pub(super) config: [u8; CONFIG_BYTES],
    configured: bool,
}

/// The test's hold on the device.
#[derive(Clone, Default)]
pub(super) struct Handle(Arc<Mutex<Log>>);

impl Handle {
    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }

    /// The way back to the driver that the device was given.
    pub(super) fn notifier(&self) -> Arc<dyn Notifier> {
        self.log()
            .notifier
            .clone()
            .expect("the device is not running")
    }

    pub(super) fn running(&self) -> bool {
        self.log().notifier.is_some()
    }
}

pub(super) struct FakeDevice {
    pub(super) handle: Handle,
    pub(super) device_type: u16,
    pub(super) queue_sizes: Vec<u16>,
}

impl FakeDevice {
    /// A block device with two queues.
    pub(super) fn new(handle: &Handle) -> Self {
        let queue_sizes = vec![QUEUE_SIZE; 2];
        Self {
            handle: handle.clone(),
            device_type: 2,
            queue_sizes,
        }
    }
}

impl VirtioDevice for FakeDevice {
    fn name(&self) -> &'static str {
        "fake0"
    }

    fn device_type(&self) -> u16 {
        self.device_type
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.handle.log().config;
        let offset = usize::try_from(offset).unwrap();
        for (at, byte) in (offset..).zip(data) {
            *byte = config.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut log = self.handle.log();
        log.configured = true;
        let offset = usize::try_from(offset).unwrap();
        for (at, byte) in (offset..).zip(data) {
            if let Some(slot) = log.config.get_mut(at) {
                *slot = *byte;
            }
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        let mut log = self.handle.log();
        assert!(log.notifier.is_none(), "activated twice without a reset");
        log.activations += 1;
        log.features = activation.features;
        log.queues = activation.queues;
        log.notifier = Some(activation.notifier);
        if log.refuse_activation {
            let source = io::Error::other("refused");
            let device = self.name().to_owned();
            return Err(Error::Host {
                device,
                operation: "start",
                source,
            });
        }
        Ok(())
    }

    fn reset(&mut self) {
        let mut log = self.handle.log();
        let (active, configured) = (log.notifier.take().is_some(), log.configured);
        assert!(active || configured, "reset without a reason");
        log.queues.clear();
        log.config = [0; CONFIG_BYTES];
        log.configured = false;
        log.resets += 1;
    }
}
