//! The register accesses of a driver, on each transport.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::fake_device::{FakeDevice, Handle};
use crate::platform_fake::FakePlatform;
use crate::virtio::{MmioTransport, TransportStatistics};
use crate::{Device, InterruptLine, PciRoot};

pub(super) const ACKNOWLEDGE: u8 = 1;
pub(super) const DRIVER: u8 = 2;
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const FEATURES_OK: u8 = 8;
pub(super) const NEEDS_RESET: u8 = 64;
pub(super) const FAILED: u8 = 128;
pub(super) const VERSION_1: u64 = 1 << 32;

/// Guest memory is `0..MEMORY_BYTES`, with a hole from `HOLE` on for one page.
pub(super) const MEMORY_BYTES: usize = 0x10_0000;
pub(super) const HOLE: u64 = 0x8_0000;

pub(super) fn guest_memory() -> Arc<GuestMemoryMmap> {
    let hole = usize::try_from(HOLE).unwrap();
    let ranges = [
        (GuestAddress(0), hole),
        (GuestAddress(HOLE + 0x1000), MEMORY_BYTES - hole - 0x1000),
    ];
    Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

/// The registers that every transport has.
pub(super) trait Driver {
    fn status(&mut self) -> u8;
    fn set_status(&mut self, value: u8);
    fn offered(&mut self, select: u32) -> u32;
    fn accept(&mut self, select: u32, bits: u32);
    fn select_queue(&mut self, queue: u16);
    /// The largest size of the selected queue; 0 where there is no such queue.
    fn queue_size_max(&mut self) -> u16;
    fn set_queue_size(&mut self, size: u16);
    fn set_queue_addresses(&mut self, descriptors: u64, driver: u64, device: u64);
    fn queue_enabled(&mut self) -> bool;
    fn enable_queue(&mut self);
    fn ring(&mut self, queue: u16);
    fn generation(&mut self) -> u8;
    fn read_config(&mut self, offset: u64, data: &mut [u8]);
    fn write_config(&mut self, offset: u64, data: &[u8]);

    fn offered_features(&mut self) -> u64 {
        u64::from(self.offered(0)) | u64::from(self.offered(1)) << 32
    }

    fn accept_features(&mut self, features: u64) {
        self.accept(0, u32::try_from(features & 0xffff_ffff).unwrap());
        self.accept(1, u32::try_from(features >> 32).unwrap());
    }

    /// Describes and enables a queue of 16 entries.
    fn set_up_queue(&mut self, queue: u16) {
        let base = 0x1_0000 * (u64::from(queue) + 1);
        self.select_queue(queue);
        self.set_queue_size(16);
        self.set_queue_addresses(base, base + 0x1000, base + 0x2000);
        self.enable_queue();
    }

    /// The whole initialization (virtio 1.2 section 3.1.1), accepting `features`.
    fn start(&mut self, features: u64) {
        self.set_status(0);
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        self.accept_features(features);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(self.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.set_up_queue(0);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }
}

/// Runs `test` on both transports.
pub(super) fn on_each_transport(test: impl Fn(&mut dyn Driver, &Handle)) {
    let mut mmio = Mmio::new();
    let handle = mmio.handle.clone();
    test(&mut mmio, &handle);
    let mut pci = Pci::new();
    let handle = pci.handle.clone();
    test(&mut pci, &handle);
}

/// A device behind memory-mapped registers.
pub(super) struct Mmio {
    pub(super) handle: Handle,
    pub(super) platform: Arc<FakePlatform>,
    pub(super) transport: MmioTransport,
}

pub(super) const MMIO_BASE: u64 = 0xe800_0000;

impl Mmio {
    pub(super) fn new() -> Self {
        let (handle, platform) = (Handle::default(), Arc::new(FakePlatform::default()));
        let line = InterruptLine {
            gsi: 5,
            event: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
        };
        let device = Box::new(FakeDevice::new(&handle));
        let transport =
            MmioTransport::new(MMIO_BASE, line, device, guest_memory(), platform.clone()).unwrap();
        Self {
            handle,
            platform,
            transport,
        }
    }

    pub(super) fn get(&mut self, register: u64) -> u32 {
        let mut data = [0xff; 4];
        self.transport.read(0, register, &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn set(&mut self, register: u64, value: u32) {
        self.transport.write(0, register, &value.to_le_bytes());
    }
}

impl Driver for Mmio {
    fn status(&mut self) -> u8 {
        self.get(0x70).try_into().unwrap()
    }

    fn set_status(&mut self, value: u8) {
        self.set(0x70, value.into());
    }

    fn offered(&mut self, select: u32) -> u32 {
        self.set(0x14, select);
        self.get(0x10)
    }

    fn accept(&mut self, select: u32, bits: u32) {
        self.set(0x24, select);
        self.set(0x20, bits);
    }

    fn select_queue(&mut self, queue: u16) {
        self.set(0x30, queue.into());
    }

    fn queue_size_max(&mut self) -> u16 {
        self.get(0x34).try_into().unwrap()
    }

    fn set_queue_size(&mut self, size: u16) {
        self.set(0x38, size.into());
    }

    fn set_queue_addresses(&mut self, descriptors: u64, driver: u64, device: u64) {
        for (register, address) in [(0x80, descriptors), (0x90, driver), (0xa0, device)] {
            self.set(register, u32::try_from(address & 0xffff_ffff).unwrap());
            self.set(register + 4, u32::try_from(address >> 32).unwrap());
        }
    }

    fn queue_enabled(&mut self) -> bool {
        self.get(0x44) == 1
    }

    fn enable_queue(&mut self) {
        self.set(0x44, 1);
    }

    fn ring(&mut self, queue: u16) {
        self.set(0x50, queue.into());
    }

    fn generation(&mut self) -> u8 {
        self.get(0xfc).try_into().unwrap()
    }

    fn read_config(&mut self, offset: u64, data: &mut [u8]) {
        self.transport.read(0, 0x100 + offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.transport.write(0, 0x100 + offset, data);
    }
}

pub(super) const ECAM_BASE: u64 = 0xe000_0000;
pub(super) const PCI_MEMORY: std::ops::Range<u64> = 0xc000_0000..0xc100_0000;

/// Where the virtio structures are, as a driver learns from the capabilities; all in register 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layout {
    pub(super) common: u64,
    pub(super) notify: u64,
    pub(super) notify_multiplier: u64,
    pub(super) isr: u64,
    pub(super) device: u64,
    pub(super) access: u64,
    pub(super) msix: u64,
    pub(super) msix_table: u64,
    pub(super) msix_pending: u64,
}

/// A device on the PCI bus, its memory decoding on.
pub(super) struct Pci {
    pub(super) handle: Handle,
    pub(super) platform: Arc<FakePlatform>,
    pub(super) root: PciRoot,
    pub(super) statistics: Arc<TransportStatistics>,
    pub(super) layout: Layout,
    pub(super) bar: u64,
}

/// The device that is tested is device 1; configuration offsets are its own.
const CONFIG: u64 = 1 << 15;

impl Pci {
    pub(super) fn new() -> Self {
        let (handle, platform) = (Handle::default(), Arc::new(FakePlatform::default()));
        let mut root = PciRoot::new(ECAM_BASE, PCI_MEMORY, platform.clone());
        let statistics = root
            .add_virtio(Box::new(FakeDevice::new(&handle)), guest_memory())
            .unwrap();
        let mut pci = Self {
            handle,
            platform,
            root,
            statistics,
            layout: Layout::default(),
            bar: 0,
        };
        pci.bar = pci.config32(0x10).into();
        pci.layout = pci.walk_capabilities();
        pci.set_config16(0x04, 0x0006);
        pci
    }

    pub(super) fn config32(&mut self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.root.read(0, CONFIG + offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn config8(&mut self, offset: u64) -> u8 {
        let mut data = [0xff];
        self.root.read(0, CONFIG + offset, &mut data);
        data[0]
    }

    pub(super) fn set_config32(&mut self, offset: u64, value: u32) {
        self.root.write(0, CONFIG + offset, &value.to_le_bytes());
    }

    pub(super) fn set_config16(&mut self, offset: u64, value: u16) {
        self.root.write(0, CONFIG + offset, &value.to_le_bytes());
    }

    fn walk_capabilities(&mut self) -> Layout {
        let mut layout = Layout::default();
        let mut at = u64::from(self.config8(0x34));
        while at != 0 {
            let offset = u64::from(self.config32(at + 8));
            match (self.config8(at), self.config8(at + 3)) {
                (0x09, 1) => layout.common = offset,
                (0x09, 2) => {
                    layout.notify = offset;
                    layout.notify_multiplier = self.config32(at + 16).into();
                }
                (0x09, 3) => layout.isr = offset,
                (0x09, 4) => layout.device = offset,
                (0x09, 5) => layout.access = at,
                (0x11, _) => {
                    layout.msix = at;
                    layout.msix_table = self.config32(at + 4).into();
                    layout.msix_pending = offset;
                }
                unknown => panic!("a capability that is not known: {unknown:x?}"),
            }
            at = self.config8(at + 1).into();
        }
        layout
    }

    /// Reads `data.len()` bytes at `offset` of base address register 0.
    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.root
            .read(1, self.bar + offset - PCI_MEMORY.start, data);
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        self.root
            .write(1, self.bar + offset - PCI_MEMORY.start, data);
    }

    pub(super) fn common16(&mut self, offset: u64) -> u16 {
        let mut data = [0xff; 2];
        self.read(self.layout.common + offset, &mut data);
        u16::from_le_bytes(data)
    }

    pub(super) fn common32(&mut self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.read(self.layout.common + offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn set_common(&mut self, offset: u64, bytes: &[u8]) {
        self.write(self.layout.common + offset, bytes);
    }

    /// Writes an entry of the MSI-X table.
    pub(super) fn set_vector(&mut self, vector: u64, address: u64, data: u32, control: u32) {
        let entry = self.layout.msix_table + vector * 16;
        self.write(
            entry,
            &u32::try_from(address & 0xffff_ffff).unwrap().to_le_bytes(),
        );
        self.write(
            entry + 4,
            &u32::try_from(address >> 32).unwrap().to_le_bytes(),
        );
        self.write(entry + 8, &data.to_le_bytes());
        self.write(entry + 12, &control.to_le_bytes());
    }

    pub(super) fn set_msix_control(&mut self, control: u16) {
        self.set_config16(self.layout.msix + 2, control);
    }
}

impl Driver for Pci {
    fn status(&mut self) -> u8 {
        let mut data = [0xff];
        self.read(self.layout.common + 20, &mut data);
        data[0]
    }

    fn set_status(&mut self, value: u8) {
        self.set_common(20, &[value]);
    }

    fn offered(&mut self, select: u32) -> u32 {
        self.set_common(0, &select.to_le_bytes());
        self.common32(4)
    }

    fn accept(&mut self, select: u32, bits: u32) {
        self.set_common(8, &select.to_le_bytes());
        self.set_common(12, &bits.to_le_bytes());
    }

    fn select_queue(&mut self, queue: u16) {
        self.set_common(22, &queue.to_le_bytes());
    }

    fn queue_size_max(&mut self) -> u16 {
        self.common16(24)
    }

    fn set_queue_size(&mut self, size: u16) {
        self.set_common(24, &size.to_le_bytes());
    }

    fn set_queue_addresses(&mut self, descriptors: u64, driver: u64, device: u64) {
        for (field, address) in [(32, descriptors), (40, driver), (48, device)] {
            self.set_common(field, &address.to_le_bytes()[..4]);
            self.set_common(field + 4, &address.to_le_bytes()[4..]);
        }
    }

    fn queue_enabled(&mut self) -> bool {
        self.common16(28) == 1
    }

    fn enable_queue(&mut self) {
        self.set_common(28, &[1, 0]);
    }

    fn ring(&mut self, queue: u16) {
        let doorbell = u64::from(queue) * self.layout.notify_multiplier;
        self.write(self.layout.notify + doorbell, &queue.to_le_bytes());
    }

    fn generation(&mut self) -> u8 {
        let mut data = [0xff];
        self.read(self.layout.common + 21, &mut data);
        data[0]
    }

    fn read_config(&mut self, offset: u64, data: &mut [u8]) {
        self.read(self.layout.device + offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.write(self.layout.device + offset, data);
    }
}
