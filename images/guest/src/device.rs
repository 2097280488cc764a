//! Brings a device to life (virtio 1.2 section 3.1.1).

use crate::Outcome;
use crate::transport::Transport;
use crate::virtqueue::Virtqueue;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

/// The feature bit of a device that follows the standard.
pub const VERSION_1: u64 = 1 << 32;

/// A running device with one queue.
pub struct Device<'a> {
    /// The way to the device.
    pub transport: &'a dyn Transport,
    /// Its first queue.
    pub queue: Virtqueue,
    /// The features both sides agreed on.
    pub features: u64,
}

impl<'a> Device<'a> {
    /// Resets the device, takes those of `wanted` features that it offers, and starts queue 0.
    pub fn start(transport: &'a dyn Transport, wanted: u64) -> Outcome<Self> {
        let features = negotiate(transport, wanted)?;
        let size_max = transport.queue_size_max(0);
        if size_max == 0 {
            return Err("the device has no queue");
        }
        let queue = Virtqueue::new(size_max);
        transport.enable_queue(0, queue.rings());
        transport.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        Ok(Self {
            transport,
            queue,
            features,
        })
    }
}

/// Goes through the steps up to `FEATURES_OK`.
pub(crate) fn negotiate(transport: &dyn Transport, wanted: u64) -> Outcome<u64> {
    transport.set_status(0);
    // Over PCI the driver waits for the reset (virtio 1.2 section 4.1.4.3.2).
    while transport.status() != 0 {}
    transport.set_status(ACKNOWLEDGE);
    transport.set_status(ACKNOWLEDGE | DRIVER);
    let offered = u64::from(transport.features(1)) << 32 | u64::from(transport.features(0));
    if offered & VERSION_1 == 0 {
        return Err("the device is a legacy one");
    }
    let features = offered & (wanted | VERSION_1);
    transport.set_features(0, (features & 0xffff_ffff) as u32);
    transport.set_features(1, (features >> 32) as u32);
    transport.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if transport.status() & FEATURES_OK == 0 {
        return Err("the device refuses the features it offered");
    }
    Ok(features)
}

/// Says that the driver is ready, whatever it has set up.
pub(crate) fn set_driver_ok(transport: &dyn Transport) {
    transport.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}
