//! A function's configuration space (PCI 3.0 section 6.1).

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

/// The part that devices without extended capabilities have; the rest reads as zero.
const SPACE_BYTES: usize = 256;

const COMMAND_MEMORY: u8 = 0x0002;
/// Memory decoding, bus mastering, error reporting, interrupt disable.
const COMMAND_WRITABLE: u16 = 0x0002 | 0x0004 | 0x0040 | 0x0100 | 0x0400;
const STATUS_CAPABILITIES: u16 = 0x0010;
/// The low bits of a memory base address register are its type: 32 bits, not prefetchable.
const BAR_TYPE_MASK: u32 = 0xf;

/// What a function is.
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) revision: u8,
    /// Base class, subclass and interface, the base class in bits 16 to 23.
    pub(crate) class: u32,
    pub(crate) subsystem_vendor: u16,
    pub(crate) subsystem: u16,
}

/// The header of a function that is not a bridge.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    vendor: U16,
    device: U16,
    command: U16,
    status: U16,
    /// The revision in the low byte, the class above it.
    revision_and_class: U32,
    cache_line_size: u8,
    latency_timer: u8,
    layout: u8,
    self_test: u8,
    bars: [U32; 6],
    cardbus: U32,
    subsystem_vendor: U16,
    subsystem: U16,
    expansion_rom: U32,
    capabilities: u8,
    reserved: [u8; 7],
    interrupt_line: u8,
    interrupt_pin: u8,
    min_grant: u8,
    max_latency: u8,
}

const _: () = assert!(size_of::<Header>() == 64);

/// A configuration space: bytes, each with the bits that a guest may write.
///
/// Sizing a base address register (writing ones and reading back which stayed) falls out of that.
pub(crate) struct ConfigSpace {
    bytes: [u8; SPACE_BYTES],
    writable: [u8; SPACE_BYTES],
    /// Where the next capability goes.
    free: usize,
    /// The byte that points at the next capability.
    link: usize,
    bar_len_bytes: Option<u32>,
}

impl ConfigSpace {
    pub(crate) fn new(identity: &Identity) -> Self {
        let header = Header {
            vendor: identity.vendor.into(),
            device: identity.device.into(),
            command: 0.into(),
            status: 0.into(),
            revision_and_class: (identity.class << 8 | u32::from(identity.revision)).into(),
            cache_line_size: 0,
            latency_timer: 0,
            layout: 0,
            self_test: 0,
            bars: [0.into(); 6],
            cardbus: 0.into(),
            subsystem_vendor: identity.subsystem_vendor.into(),
            subsystem: identity.subsystem.into(),
            expansion_rom: 0.into(),
            capabilities: 0,
            reserved: [0; 7],
            interrupt_line: 0,
            interrupt_pin: 0,
            min_grant: 0,
            max_latency: 0,
        };
        let mut space = Self {
            bytes: [0; SPACE_BYTES],
            writable: [0; SPACE_BYTES],
            free: size_of::<Header>(),
            link: offset_of!(Header, capabilities),
            bar_len_bytes: None,
        };
        space.put(0, header.as_bytes());
        space.allow(offset_of!(Header, command), &COMMAND_WRITABLE.to_le_bytes());
        space.allow(offset_of!(Header, cache_line_size), &[0xff]);
        space.allow(offset_of!(Header, interrupt_line), &[0xff]);
        space
    }

    /// Gives the function a memory window at `base`, in base address register 0.
    ///
    /// # Panics
    /// When `len_bytes` is not a power of two of at least 16.
    pub(crate) fn set_bar(&mut self, base: u32, len_bytes: u32) {
        assert!(len_bytes.is_power_of_two() && len_bytes > BAR_TYPE_MASK);
        let bar = offset_of!(Header, bars);
        self.put(bar, &base.to_le_bytes());
        self.allow(bar, &(!(len_bytes - 1)).to_le_bytes());
        self.bar_len_bytes = Some(len_bytes);
    }

    /// Appends a capability (PCI 3.0 section 6.7) and returns its offset. `body` is what follows its
    /// identifier and its link; `writable` are the bits of it that a guest may write.
    ///
    /// # Panics
    /// When the space is full, or `body` and `writable` differ in length.
    pub(crate) fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        assert_eq!(body.len(), writable.len());
        let at = self.free;
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        // Capabilities lie on multiples of four below 256.
        self.bytes[self.link] = u8::try_from(at).expect("capabilities lie below 256");
        self.put(
            offset_of!(Header, status),
            &STATUS_CAPABILITIES.to_le_bytes(),
        );
        self.link = at + 1;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    pub(crate) fn read(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, value) in (offset..).zip(data) {
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | value & mask;
            }
        }
    }

    /// The bytes at `offset`, for the function's own use; zero beyond the end.
    pub(crate) fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes);
        bytes
    }

    /// Sets bytes whatever a guest may write of them.
    pub(crate) fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Where the function's memory window is, while it decodes memory: first address and length.
    pub(crate) fn memory(&self) -> Option<(u64, u64)> {
        let [command] = self.get(offset_of!(Header, command));
        let base = u32::from_le_bytes(self.get(offset_of!(Header, bars))) & !BAR_TYPE_MASK;
        let len_bytes = self.bar_len_bytes?;
        (command & COMMAND_MEMORY != 0).then_some((base.into(), len_bytes.into()))
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u32 = 0xc000_0000;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_80_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x40,
        });
        space.set_bar(BASE, 0x8000);
        space
    }

    fn read32(space: &ConfigSpace, offset: usize) -> u32 {
        u32::from_le_bytes(space.get(offset))
    }

    #[test]
    fn identity_reads_back_and_is_not_writable() {
        let mut space = space();
        for _ in 0..2 {
            assert_eq!(read32(&space, 0x00), 0x1042_1af4);
            assert_eq!(read32(&space, 0x08), 0x0180_0001);
            assert_eq!(read32(&space, 0x2c), 0x0040_1af4);
            (0..SPACE_BYTES).for_each(|offset| space.write(offset, &[0xff]));
        }
    }

    #[test]
    fn the_base_address_register_tells_its_size() {
        let mut space = space();
        assert_eq!(read32(&space, 0x10), BASE);
        space.write(0x10, &[0xff; 4]);
        assert_eq!(read32(&space, 0x10), 0xffff_8000);
        space.write(0x14, &[0xff; 4]);
        assert_eq!(read32(&space, 0x14), 0, "there is no second one");
        space.write(0x30, &[0xff; 4]);
        assert_eq!(read32(&space, 0x30), 0, "there is no expansion ROM");
    }

    #[test]
    fn memory_answers_where_the_guest_put_it_while_enabled() {
        let mut space = space();
        assert_eq!(space.memory(), None);
        space.write(0x04, &[0x02, 0x00]);
        assert_eq!(space.memory(), Some((BASE.into(), 0x8000)));
        space.write(0x10, &0xd000_1234_u32.to_le_bytes());
        assert_eq!(space.memory(), Some((0xd000_0000, 0x8000)));
    }

    #[test]
    fn capabilities_form_a_chain() {
        let mut space = space();
        let [status] = space.get(0x06);
        assert_eq!(status & 0x10, 0);
        let first = space.add_capability(9, &[1, 2, 3], &[0, 0xff, 0]);
        let second = space.add_capability(0x11, &[4; 10], &[0; 10]);
        let ([status], [head]) = (space.get(0x06), space.get(0x34));
        assert_eq!((status & 0x10, usize::from(head)), (0x10, first));
        assert_eq!((first % 4, second % 4), (0, 0));
        let [id, next, ..] = space.get::<4>(first);
        assert_eq!((id, usize::from(next)), (9, second));
        assert_eq!(space.get(second), [0x11, 0, 4, 4]);
        space.write(first, &[0xff; 5]);
        assert_eq!(
            space.get(first),
            [9, u8::try_from(second).unwrap(), 1, 0xff, 3]
        );
    }

    #[test]
    fn accesses_past_the_end_read_zero() {
        let mut space = space();
        space.write(SPACE_BYTES - 2, &[0xff; 8]);
        let mut data = [0xff; 8];
        space.read(SPACE_BYTES - 2, &mut data);
        assert_eq!(data, [0; 8]);
        space.read(4095, &mut data);
        assert_eq!(data, [0; 8]);
    }
}
