//! What the guest sees: buses, virtio transports, block, entropy, serial, clock, power.

mod device;
mod error;
mod platform;
pub mod virtio;

pub use device::{Device, InterruptLine, Space, Window};
pub use error::Error;
pub use platform::{Doorbell, MsiMessage, MsiVector, Platform, PowerEvent};
