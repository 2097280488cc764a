//! The root bus: the host bridge, the functions, and who answers which address.

use std::ops::Range;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::{ConfigSpace, Function, Identity};
use crate::virtio::pci::VirtioPci;
use crate::virtio::{TransportStatistics, VirtioDevice};
use crate::{Device, Error, Platform, Space, Window};

/// Devices on a bus; each of ours has one function.
const DEVICE_LIMIT: usize = 32;

/// Bus 0 alone: 32 devices of 8 functions with 4 KiB each (PCI Express 2.0 section 7.2.2).
const ECAM_BYTES: u64 = 1 << 20;
const CONFIG_BYTES: u64 = 1 << 12;
const FUNCTIONS_PER_DEVICE: u64 = 8;

const ECAM_WINDOW: usize = 0;

/// PCI bus 0, with a host bridge as its first device.
pub struct PciRoot {
    ecam_base: u64,
    memory: Range<u64>,
    /// Where the next base address register goes.
    free: u64,
    platform: Arc<dyn Platform>,
    functions: Vec<Box<dyn Function>>,
}

impl PciRoot {
    /// A bus whose configuration space is at `ecam_base`, and whose functions have their registers in
    /// `memory`, a range below 4 GiB.
    pub fn new(ecam_base: u64, memory: Range<u64>, platform: Arc<dyn Platform>) -> Self {
        let free = memory.start;
        Self {
            ecam_base,
            memory,
            free,
            platform,
            functions: vec![Box::new(HostBridge::new())],
        }
    }

    /// Plugs in a virtio device whose queues are in `guest_memory`. Devices get the numbers 1, 2, …
    /// in order. Their registers are assigned, as firmware would; memory decoding is left to the
    /// guest to switch on.
    ///
    /// Returns what its transport counts.
    pub fn add_virtio(
        &mut self,
        device: Box<dyn VirtioDevice>,
        guest_memory: Arc<GuestMemoryMmap>,
    ) -> Result<Arc<TransportStatistics>, Error> {
        if self.functions.len() >= DEVICE_LIMIT {
            let device = device.name().to_owned();
            return Err(Error::BusFull {
                device,
                limit: DEVICE_LIMIT - 1,
            });
        }
        let (base, next) = self.place(device.name(), VirtioPci::BAR_BYTES.into())?;
        let platform = Arc::clone(&self.platform);
        let function = VirtioPci::new(device, guest_memory, platform, base, self.memory.clone())?;
        self.free = next;
        let statistics = function.statistics();
        self.functions.push(Box::new(function));
        Ok(statistics)
    }

    /// An address for a register window, aligned to its length, and the first address behind it.
    fn place(&self, device: &str, len_bytes: u64) -> Result<(u32, u64), Error> {
        let base = self.free.next_multiple_of(len_bytes);
        let next = base + len_bytes;
        match u32::try_from(base) {
            Ok(base) if next <= self.memory.end => Ok((base, next)),
            _ => Err(Error::WindowFull {
                device: device.to_owned(),
                len_bytes,
            }),
        }
    }

    /// The function and the register at `offset` of the configuration space.
    fn configured(&mut self, offset: u64) -> Option<(&mut (dyn Function + 'static), usize)> {
        let function = usize::try_from(offset / CONFIG_BYTES).ok()?;
        let per_device = usize::try_from(FUNCTIONS_PER_DEVICE).ok()?;
        let register = usize::try_from(offset % CONFIG_BYTES).ok()?;
        if !function.is_multiple_of(per_device) {
            return None;
        }
        let function = self.functions.get_mut(function / per_device)?;
        Some((function.as_mut(), register))
    }

    /// The function that answers all of `len` bytes at `offset` of the memory window, and the offset
    /// into its own. Where a guest puts two at one place, the first answers.
    fn addressed(
        &mut self,
        offset: u64,
        len: usize,
    ) -> Option<(&mut (dyn Function + 'static), u64)> {
        let address = self.memory.start.checked_add(offset)?;
        let end = address.checked_add(u64::try_from(len).ok()?)?;
        self.functions.iter_mut().find_map(|function| {
            let (base, len_bytes) = function.memory()?;
            let inside = base <= address && end <= base + len_bytes;
            inside.then(|| (function.as_mut(), address - base))
        })
    }
}

impl Device for PciRoot {
    fn name(&self) -> &'static str {
        "pci"
    }

    fn windows(&self) -> Vec<Window> {
        let (space, base) = (Space::Memory, self.ecam_base);
        let ecam = Window {
            space,
            base,
            len_bytes: ECAM_BYTES,
        };
        let base = self.memory.start;
        vec![
            ecam,
            Window {
                space,
                base,
                len_bytes: self.memory.end - base,
            },
        ]
    }

    fn read(&mut self, window: usize, offset: u64, data: &mut [u8]) {
        if window == ECAM_WINDOW {
            if let Some((function, register)) = self.configured(offset) {
                function.read_config(register, data);
            }
        } else if let Some((function, offset)) = self.addressed(offset, data.len()) {
            function.read_memory(offset, data);
        }
    }

    fn write(&mut self, window: usize, offset: u64, data: &[u8]) {
        if window == ECAM_WINDOW {
            if let Some((function, register)) = self.configured(offset) {
                function.write_config(register, data);
            }
        } else if let Some((function, offset)) = self.addressed(offset, data.len()) {
            function.write_memory(offset, data);
        }
    }
}

/// The bridge between the CPU and the bus: an identity and nothing else.
struct HostBridge(ConfigSpace);

impl HostBridge {
    fn new() -> Self {
        Self(ConfigSpace::new(&Identity {
            // The generic host bridge of the virtual machines' vendor.
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: 0x06_00_00,
            subsystem_vendor: 0,
            subsystem: 0,
        }))
    }
}

impl Function for HostBridge {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }
}
