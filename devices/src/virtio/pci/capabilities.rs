//! The capabilities by which a driver finds a virtio device's registers (virtio 1.2 section 4.1.4).

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{COMMON, DEVICE, ISR, NOTIFY, PAGE_BYTES, common_config};
use crate::pci::ConfigSpace;

/// Vendor-specific (PCI 3.0 appendix H).
const CAPABILITY_ID: u8 = 0x09;

const TYPE_COMMON: u8 = 1;
const TYPE_NOTIFY: u8 = 2;
const TYPE_ISR: u8 = 3;
const TYPE_DEVICE: u8 = 4;
const TYPE_PCI: u8 = 5;

/// The distance of the queues' doorbells.
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;

/// `struct virtio_pci_cap` without the identifier and the link before it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct VirtioCapability {
    cap_len: u8,
    cfg_type: u8,
    pub(super) bar: u8,
    id: u8,
    padding: [u8; 2],
    pub(super) offset: U32,
    pub(super) length: U32,
}

/// What stands before a [`VirtioCapability`]: identifier and link.
const PREFIX_BYTES: usize = 2;

/// Where the window of the PCI configuration access capability is, from the capability's start.
pub(super) const ACCESS_DATA: usize = PREFIX_BYTES + size_of::<VirtioCapability>();

impl VirtioCapability {
    /// A capability for `length` bytes at `offset` of base address register 0, with `extra_bytes`
    /// behind it.
    fn new(cfg_type: u8, offset: u64, length: usize, extra_bytes: usize) -> Self {
        let narrow = |value: usize| u32::try_from(value).unwrap_or(0).into();
        let cap_len = PREFIX_BYTES + size_of::<Self>() + extra_bytes;
        Self {
            cap_len: u8::try_from(cap_len).unwrap_or(0),
            cfg_type,
            bar: 0,
            id: 0,
            padding: [0; 2],
            offset: u32::try_from(offset).unwrap_or(0).into(),
            length: narrow(length),
        }
    }

    /// Reads the capability at `capability` as the guest left it.
    pub(super) fn of(config: &ConfigSpace, capability: usize) -> Self {
        const LEN: usize = size_of::<VirtioCapability>();
        zerocopy::transmute!(config.get::<LEN>(capability + PREFIX_BYTES))
    }
}

/// Adds the capabilities, and returns where the PCI configuration access capability is.
pub(super) fn add(config: &mut ConfigSpace, queue_count: usize) -> usize {
    let page = usize::try_from(PAGE_BYTES).unwrap_or(0);
    for (cfg_type, offset, length) in [
        (TYPE_COMMON, COMMON, common_config::LEN_BYTES),
        (TYPE_ISR, ISR, 1),
        (TYPE_DEVICE, DEVICE, page),
    ] {
        let body = VirtioCapability::new(cfg_type, offset, length, 0);
        config.add_capability(
            CAPABILITY_ID,
            body.as_bytes(),
            &[0; size_of::<VirtioCapability>()],
        );
    }
    let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
    let notify = queue_count * multiplier.len();
    let body = VirtioCapability::new(TYPE_NOTIFY, NOTIFY, notify, multiplier.len());
    let body = [body.as_bytes(), &multiplier].concat();
    config.add_capability(CAPABILITY_ID, &body, &vec![0; body.len()]);
    add_access(config)
}

/// Adds the capability through which a driver reaches the registers without mapping them
/// (virtio 1.2 section 4.1.4.9).
fn add_access(config: &mut ConfigSpace) -> usize {
    const DATA_BYTES: usize = 4;
    const LEN: usize = size_of::<VirtioCapability>() + DATA_BYTES;
    let body = VirtioCapability::new(TYPE_PCI, 0, 0, DATA_BYTES);
    let body = [body.as_bytes(), &[0; DATA_BYTES]].concat();
    let mut writable = [0; LEN];
    writable[offset_of!(VirtioCapability, bar)] = 0xff;
    writable[offset_of!(VirtioCapability, offset)..].fill(0xff);
    config.add_capability(CAPABILITY_ID, &body, &writable)
}
