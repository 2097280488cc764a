//! The PCI transport, without its legacy interface (virtio 1.2 section 4.1).
//!
//! One 32-bit memory window holds everything, a page each:
//!
//! ```text
//! 0x0000  common configuration
//! 0x1000  interrupt status
//! 0x2000  device configuration
//! 0x3000  doorbells, 4 bytes a queue
//! 0x4000  MSI-X table
//! 0x5000  MSI-X pending bits
//! ```

mod capabilities;
mod common_config;
mod interrupts;

use std::ops::Range;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use self::capabilities::{ACCESS_DATA, NOTIFY_MULTIPLIER, VirtioCapability};
use self::interrupts::PciInterrupts;
use super::device::VirtioDevice;
use super::doorbells::Doorbells;
use super::link::Interrupt;
use super::transport::Transport;
use super::{TransportStatistics, VENDOR_ID};
use crate::pci::{ConfigSpace, Function, Identity, MSIX_CAPABILITY_ID, Msix};
use crate::{Doorbell, Error, Platform};

const PAGE_BYTES: u64 = 0x1000;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const MSIX_TABLE: u64 = 0x4000;
const MSIX_PENDING: u64 = 0x5000;

/// Each queue has a vector, and the configuration one; their table entries take 16 bytes of a page.
const QUEUE_LIMIT: u16 = 255;

/// Device identifiers are this plus the device type (virtio 1.2 section 4.1.2).
const DEVICE_ID_BASE: u16 = 0x1040;
/// The first revision and the first subsystem of devices without a legacy interface.
const REVISION: u8 = 1;
const SUBSYSTEM: u16 = 0x40;

/// A virtio device as a PCI function.
pub(crate) struct VirtioPci {
    config: ConfigSpace,
    transport: Transport,
    interrupts: Arc<PciInterrupts>,
    msix: Msix,
    msix_capability: usize,
    access_capability: usize,
    doorbells: Doorbells,
    /// The register window to which the doorbells are attached.
    doorbells_base: Option<u64>,
    /// Where the bus lets functions answer.
    bus_memory: Range<u64>,
}

impl VirtioPci {
    /// The length of the register window.
    pub(crate) const BAR_BYTES: u32 = 0x8000;

    /// `device` as a function whose registers are at `base` until the guest moves them within
    /// `bus_memory`.
    pub(crate) fn new(
        device: Box<dyn VirtioDevice>,
        guest_memory: Arc<GuestMemoryMmap>,
        platform: Arc<dyn Platform>,
        base: u32,
        bus_memory: Range<u64>,
    ) -> Result<Self, Error> {
        let queue_count = device.queue_sizes().len();
        let msix = Msix::new(queue_count + 1, platform.as_ref()).map_err(|source| Error::Host {
            device: device.name().to_owned(),
            operation: "make its interrupts",
            source,
        })?;
        let interrupts = Arc::new(PciInterrupts::new(msix.signals(), queue_count));
        let shared = Arc::clone(&interrupts) as Arc<dyn Interrupt>;
        let transport = Transport::new(device, guest_memory, shared, QUEUE_LIMIT)?;

        let mut config = ConfigSpace::new(&identity(transport.device_type()));
        config.set_bar(base, Self::BAR_BYTES);
        let access_capability = capabilities::add(&mut config, queue_count);
        let (body, writable) = msix.capability(bar_offset(MSIX_TABLE), bar_offset(MSIX_PENDING));
        let msix_capability = config.add_capability(MSIX_CAPABILITY_ID, &body, &writable);
        Ok(Self {
            config,
            transport,
            interrupts,
            msix,
            msix_capability,
            access_capability,
            doorbells: Doorbells::new(platform),
            doorbells_base: None,
            bus_memory,
        })
    }

    pub(crate) fn statistics(&self) -> Arc<TransportStatistics> {
        Arc::clone(self.transport.statistics())
    }

    /// Lets doorbells follow the register window. One that a guest put outside the bus' memory gets
    /// none: there they could take writes that are meant for others.
    fn place_doorbells(&mut self) {
        let base = self.memory().map(|(base, _)| base);
        if base == self.doorbells_base {
            return;
        }
        self.doorbells.detach_all();
        self.doorbells_base = base;
        let Some(base) = base else { return };
        let addresses = (base + NOTIFY..).step_by(4);
        for (address, setup) in addresses.zip(self.transport.queues()) {
            self.doorbells.attach(
                Doorbell {
                    address,
                    value: None,
                },
                setup.doorbell(),
            );
        }
    }

    /// The access that the configuration access capability describes, if it is one: the offset into
    /// the register window and the length.
    fn described_access(&self) -> Option<(u64, usize)> {
        let capability = VirtioCapability::of(&self.config, self.access_capability);
        let (offset, length) = (capability.offset.get(), capability.length.get());
        let valid = capability.bar == 0 && matches!(length, 1 | 2 | 4);
        let length = usize::try_from(length).ok()?;
        valid.then_some((offset.into(), length))
    }

    /// Whether a configuration access touches the data of the configuration access capability.
    fn touches_access_data(&self, offset: usize, len: usize) -> bool {
        let data = self.access_capability + ACCESS_DATA;
        offset < data + 4 && data < offset + len
    }
}

impl Function for VirtioPci {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        if self.touches_access_data(offset, data.len())
            && let Some((register, length)) = self.described_access()
        {
            let mut value = [0; 4];
            self.read_memory(register, &mut value[..length]);
            self.config
                .put(self.access_capability + ACCESS_DATA, &value);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        if self.touches_access_data(offset, data.len())
            && let Some((register, length)) = self.described_access()
        {
            let value: [u8; 4] = self.config.get(self.access_capability + ACCESS_DATA);
            self.write_memory(register, &value[..length]);
        }
        let control = u16::from_le_bytes(self.config.get(self.msix_capability + 2));
        self.msix.set_control(control);
        self.place_doorbells();
    }

    fn memory(&self) -> Option<(u64, u64)> {
        self.config.memory().filter(|(base, len_bytes)| {
            self.bus_memory.start <= *base && base + len_bytes <= self.bus_memory.end
        })
    }

    fn read_memory(&mut self, offset: u64, data: &mut [u8]) {
        let Some((page, offset, register)) = locate(offset, data.len()) else {
            return;
        };
        match page {
            COMMON => common_config::read(&self.transport, &self.interrupts, register, data),
            ISR if offset == 0 => {
                data.fill(0);
                data[0] = self.interrupts.take_status();
            }
            DEVICE => self.transport.read_config(offset, data),
            MSIX_TABLE => self.msix.read_table(register, data),
            MSIX_PENDING => self.msix.read_pending(register, data),
            _ => data.fill(0),
        }
    }

    fn write_memory(&mut self, offset: u64, data: &[u8]) {
        let Some((page, offset, register)) = locate(offset, data.len()) else {
            return;
        };
        match page {
            COMMON => common_config::write(&mut self.transport, &self.interrupts, register, data),
            DEVICE => self.transport.write_config(offset, data),
            NOTIFY => {
                let queue = u32::try_from(offset).map(|offset| offset / NOTIFY_MULTIPLIER);
                self.transport.ring(queue.unwrap_or(u32::MAX));
            }
            MSIX_TABLE => self.msix.write_table(register, data),
            _ => {}
        }
    }
}

/// Splits an offset into the register window into its page and the offset there (in both widths);
/// none for an access that is empty or leaves the page.
fn locate(offset: u64, len: usize) -> Option<(u64, u64, usize)> {
    let (page, offset) = (offset / PAGE_BYTES * PAGE_BYTES, offset % PAGE_BYTES);
    let register = usize::try_from(offset).ok()?;
    let end = register.checked_add(len)?;
    let inside = len > 0 && end <= usize::try_from(PAGE_BYTES).ok()?;
    inside.then_some((page, offset, register))
}

fn bar_offset(page: u64) -> u32 {
    u32::try_from(page).unwrap_or(0)
}

fn identity(device_type: u16) -> Identity {
    /// The base class and subclass by which system tools group devices; the driver does not look.
    const STORAGE_OTHER: u32 = 0x01_80_00;
    const UNASSIGNED: u32 = 0xff_00_00;
    const ENTROPY: u32 = 0x00_ff_00;
    Identity {
        vendor: VENDOR_ID,
        device: DEVICE_ID_BASE.wrapping_add(device_type),
        revision: REVISION,
        class: match device_type {
            2 => STORAGE_OTHER,
            4 => ENTROPY,
            _ => UNASSIGNED,
        },
        subsystem_vendor: VENDOR_ID,
        subsystem: SUBSYSTEM,
    }
}
