//! Virtio devices and their transports (virtio 1.2).

mod device;

pub use device::{Activation, ActiveQueue, Notifier, VirtioDevice};
