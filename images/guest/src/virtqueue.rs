//! A split virtqueue with one request in flight (virtio 1.2 section 2.7).

use crate::memory::{QUEUE, barrier, cycles, read, write};
use crate::transport::Transport;

/// Bits of a descriptor (virtio 1.2 section 2.7.5).
pub const NEXT: u16 = 1;
/// The device writes the buffer.
pub const WRITE: u16 = 2;
/// The buffer holds further descriptors.
pub const INDIRECT: u16 = 4;

/// The status bit of a device that has given up.
pub const NEEDS_RESET: u8 = 64;

/// Where indirect tables are put, beside the rings.
pub const INDIRECT_TABLE: u64 = QUEUE + 0x8000;

/// The largest queue this driver uses.
const SIZE_MAX: u16 = 64;

/// How long a request may take, in cycles of any processor: more than ten seconds.
const PATIENCE_CYCLES: u64 = 60_000_000_000;

/// Where the parts of a queue lie, and its size.
#[derive(Clone, Copy, Debug)]
pub struct Rings {
    /// The number of descriptors, a power of two.
    pub size: u16,
    /// The address of the descriptor table.
    pub descriptors: u64,
    /// The address of the available ring.
    pub available: u64,
    /// The address of the used ring.
    pub used: u64,
}

/// One buffer of a request.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Where the buffer lies.
    pub address: u64,
    /// Its length.
    pub len_bytes: u32,
    /// [`NEXT`], [`WRITE`] and [`INDIRECT`].
    pub flags: u16,
    /// The descriptor after it, if [`NEXT`] is set.
    pub next: u16,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The device put it into the used ring.
    Used,
    /// The device says that it needs a reset.
    Broken,
    /// Neither happened within the time that a request may take.
    Silent,
}

/// The driver's side of queue 0.
#[derive(Debug)]
pub struct Virtqueue {
    rings: Rings,
    available_index: u16,
}

impl Virtqueue {
    /// Lays out empty rings of at most `size_max` descriptors.
    pub fn new(size_max: u16) -> Self {
        let rings = Rings {
            size: size_max.min(SIZE_MAX),
            descriptors: QUEUE,
            available: QUEUE + 0x1000,
            used: QUEUE + 0x2000,
        };
        for field in [rings.available, rings.used] {
            write(field, 0_u32);
        }
        Self {
            rings,
            available_index: 0,
        }
    }

    /// Where the rings lie.
    pub fn rings(&self) -> &Rings {
        &self.rings
    }

    /// Writes a descriptor into the table, or into an indirect one.
    pub fn put(&self, table: u64, index: u16, descriptor: Descriptor) {
        let address = table + 16 * u64::from(index);
        write(address, descriptor.address);
        write(address + 8, descriptor.len_bytes);
        write(address + 12, descriptor.flags);
        write(address + 14, descriptor.next);
    }

    /// Makes the chain that begins at `head` available and waits for its end.
    pub fn offer(&mut self, transport: &dyn Transport, head: u16) -> End {
        self.offer_many(transport, head, 1)
    }

    /// Claims that `count` more chains are available, all beginning at `head`, and waits for the
    /// end of the first.
    pub fn offer_many(&mut self, transport: &dyn Transport, head: u16, count: u16) -> End {
        let used_before = self.used_index();
        let slot = u64::from(self.available_index % self.rings.size);
        write(self.rings.available + 4 + 2 * slot, head);
        barrier();
        self.available_index = self.available_index.wrapping_add(count);
        write(self.rings.available + 2, self.available_index);
        barrier();
        transport.notify(0);
        self.wait(transport, used_before)
    }

    fn wait(&self, transport: &dyn Transport, used_before: u16) -> End {
        let start = cycles();
        loop {
            // Memory costs the machine nothing, a register an exit: look at it seldom.
            for _ in 0..1000 {
                if self.used_index() != used_before {
                    barrier();
                    return End::Used;
                }
                core::hint::spin_loop();
            }
            if transport.status() & NEEDS_RESET != 0 {
                return End::Broken;
            }
            if cycles().wrapping_sub(start) > PATIENCE_CYCLES {
                return End::Silent;
            }
        }
    }

    fn used_index(&self) -> u16 {
        read(self.rings.used + 2)
    }
}
