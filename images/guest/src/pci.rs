//! Virtio over PCI (virtio 1.2 section 4.1), found through memory-mapped configuration space.

use crate::Outcome;
use crate::memory::{read, write};
use crate::mmio::poke;
use crate::pattern::Random;
use crate::transport::Transport;
use crate::virtqueue::Rings;

/// Configuration space (PCI Local Bus 3.0 section 6.1).
const COMMAND: u64 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const BARS: u64 = 0x10;
const CAPABILITIES: u64 = 0x34;
const CAPABILITY_VENDOR: u8 = 0x09;

/// The parts of a device's window (virtio 1.2 section 4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

/// The common configuration (virtio 1.2 section 4.1.4.3).
const DEVICE_FEATURES_PAGE: u64 = 0x00;
const DEVICE_FEATURES: u64 = 0x04;
const DRIVER_FEATURES_PAGE: u64 = 0x08;
const DRIVER_FEATURES: u64 = 0x0c;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFFSET: u64 = 0x1e;
const QUEUE_DESCRIPTORS: u64 = 0x20;
const QUEUE_AVAILABLE: u64 = 0x28;
const QUEUE_USED: u64 = 0x30;
const COMMON_BYTES: u64 = 0x38;

/// A function on the PCI bus.
pub struct Pci {
    common: u64,
    notify: u64,
    notify_multiplier: u32,
    device: u64,
}

impl Pci {
    /// Finds the first function of type `device_type` on bus 0, whose configuration space begins
    /// at `ecam`, and switches it on. The machine has given it its addresses.
    pub fn find(ecam: u64, device_type: u16) -> Outcome<Self> {
        let id = u32::from(device_type + 0x1040) << 16 | 0x1af4;
        let functions = (0..32).map(|device| ecam + (device << 15));
        let mut found = functions.filter(|&function| read::<u32>(function) == id);
        let function = found
            .next()
            .ok_or("there is no such virtio function on the PCI bus")?;
        write(function + COMMAND, COMMAND_MEMORY | COMMAND_BUS_MASTER);
        let (notify, capability) = part(function, NOTIFY).ok_or("no notification part")?;
        Ok(Self {
            common: part(function, COMMON).ok_or("no common part")?.0,
            notify,
            notify_multiplier: read(capability + 16),
            device: part(function, DEVICE).ok_or("no device part")?.0,
        })
    }

    fn select(&self, queue: u16) {
        write(self.common + QUEUE_SELECT, queue);
    }

    /// The common configuration takes an address as two halves on every device.
    fn write_address(&self, register: u64, address: u64) {
        write(self.common + register, (address & 0xffff_ffff) as u32);
        write(self.common + register + 4, (address >> 32) as u32);
    }
}

/// The address of a part of the device, and of the capability that tells it.
fn part(function: u64, kind: u8) -> Option<(u64, u64)> {
    let mut offset = read::<u8>(function + CAPABILITIES);
    // A list longer than the space has room for goes in circles.
    for _ in 0..48 {
        if offset == 0 {
            return None;
        }
        let capability = function + u64::from(offset & !3);
        if read::<u8>(capability) == CAPABILITY_VENDOR && read::<u8>(capability + 3) == kind {
            let bar = function + BARS + 4 * u64::from(read::<u8>(capability + 4) % 6);
            let base = u64::from(read::<u32>(bar) & !15);
            return Some((base + u64::from(read::<u32>(capability + 8)), capability));
        }
        offset = read::<u8>(capability + 1);
    }
    None
}

impl Transport for Pci {
    fn status(&self) -> u8 {
        read(self.common + STATUS)
    }

    fn set_status(&self, status: u8) {
        write(self.common + STATUS, status);
    }

    fn features(&self, page: u32) -> u32 {
        write(self.common + DEVICE_FEATURES_PAGE, page);
        read(self.common + DEVICE_FEATURES)
    }

    fn set_features(&self, page: u32, features: u32) {
        write(self.common + DRIVER_FEATURES_PAGE, page);
        write(self.common + DRIVER_FEATURES, features);
    }

    fn queue_size_max(&self, queue: u16) -> u16 {
        self.select(queue);
        read(self.common + QUEUE_SIZE)
    }

    fn enable_queue(&self, queue: u16, rings: &Rings) {
        self.select(queue);
        write(self.common + QUEUE_SIZE, rings.size);
        self.write_address(QUEUE_DESCRIPTORS, rings.descriptors);
        self.write_address(QUEUE_AVAILABLE, rings.available);
        self.write_address(QUEUE_USED, rings.used);
        write(self.common + QUEUE_ENABLE, 1_u16);
    }

    fn notify(&self, queue: u16) {
        self.select(queue);
        let offset = read::<u16>(self.common + QUEUE_NOTIFY_OFFSET);
        let offset = u64::from(offset) * u64::from(self.notify_multiplier);
        write(self.notify + offset, queue);
    }

    fn config(&self, offset: u64) -> u32 {
        read(self.device + offset)
    }

    fn poke(&self, random: &mut Random, count: u32) {
        for _ in 0..count {
            let (place, value) = (random.next(), random.next());
            poke(self.common + place % COMMON_BYTES, place >> 32, value);
        }
    }
}
