//! Virtio over MMIO, version 2 (virtio 1.2 section 4.2).

use crate::Outcome;
use crate::memory::{read, write};
use crate::pattern::Random;
use crate::transport::Transport;
use crate::virtqueue::Rings;

const MAGIC: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_PAGE: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_PAGE: u64 = 0x024;
const QUEUE_SELECT: u64 = 0x030;
const QUEUE_SIZE_MAX: u64 = 0x034;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const STATUS: u64 = 0x070;
const QUEUE_DESCRIPTORS: u64 = 0x080;
const QUEUE_AVAILABLE: u64 = 0x090;
const QUEUE_USED: u64 = 0x0a0;
const CONFIG: u64 = 0x100;

/// The characters `virt`.
const MAGIC_VALUE: u32 = 0x7472_6976;

/// A device in memory.
pub struct Mmio {
    base: u64,
}

impl Mmio {
    /// The device at `base`, which must be of type `device_type`.
    pub fn new(base: u64, device_type: u16) -> Outcome<Self> {
        if read::<u32>(base + MAGIC) != MAGIC_VALUE {
            return Err("there is no virtio-mmio device");
        }
        if read::<u32>(base + VERSION) != 2 {
            return Err("the virtio-mmio device is not version 2");
        }
        if read::<u32>(base + DEVICE_ID) != u32::from(device_type) {
            return Err("the virtio-mmio device is of another type");
        }
        Ok(Self { base })
    }

    fn write_address(&self, register: u64, address: u64) {
        write(self.base + register, (address & 0xffff_ffff) as u32);
        write(self.base + register + 4, (address >> 32) as u32);
    }
}

impl Transport for Mmio {
    fn status(&self) -> u8 {
        (read::<u32>(self.base + STATUS) & 0xff) as u8
    }

    fn set_status(&self, status: u8) {
        write(self.base + STATUS, u32::from(status));
    }

    fn features(&self, page: u32) -> u32 {
        write(self.base + DEVICE_FEATURES_PAGE, page);
        read(self.base + DEVICE_FEATURES)
    }

    fn set_features(&self, page: u32, features: u32) {
        write(self.base + DRIVER_FEATURES_PAGE, page);
        write(self.base + DRIVER_FEATURES, features);
    }

    fn queue_size_max(&self, queue: u16) -> u16 {
        write(self.base + QUEUE_SELECT, u32::from(queue));
        (read::<u32>(self.base + QUEUE_SIZE_MAX) & 0xffff) as u16
    }

    fn enable_queue(&self, queue: u16, rings: &Rings) {
        write(self.base + QUEUE_SELECT, u32::from(queue));
        write(self.base + QUEUE_SIZE, u32::from(rings.size));
        self.write_address(QUEUE_DESCRIPTORS, rings.descriptors);
        self.write_address(QUEUE_AVAILABLE, rings.available);
        self.write_address(QUEUE_USED, rings.used);
        write(self.base + QUEUE_READY, 1_u32);
    }

    fn notify(&self, queue: u16) {
        write(self.base + QUEUE_NOTIFY, u32::from(queue));
    }

    fn config(&self, offset: u64) -> u32 {
        read(self.base + CONFIG + offset)
    }

    fn poke(&self, random: &mut Random, count: u32) {
        for _ in 0..count {
            let (place, value) = (random.next(), random.next());
            poke(self.base + place % 0x200, place >> 32, value);
        }
    }
}

/// Writes `value` with one of the four widths; the address need not fit it.
pub(crate) fn poke(address: u64, width: u64, value: u64) {
    match width % 4 {
        0 => write(address, (value & 0xff) as u8),
        1 => write(address, (value & 0xffff) as u16),
        2 => write(address, (value & 0xffff_ffff) as u32),
        _ => write(address, value),
    }
}
