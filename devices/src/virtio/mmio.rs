//! The memory-mapped transport, version 2 (virtio 1.2 section 4.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use acpi_tables::{Aml, AmlSink, aml};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING,
    VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE,
    VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH,
    VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL,
    VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_BASE_HIGH,
    VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use vm_memory::GuestMemoryMmap;

use super::device::VirtioDevice;
use super::doorbells::Doorbells;
use super::link::{Cause, Interrupt};
use super::queue_setup::{Area, Half, QueueSetup};
use super::transport::Transport;
use super::{TransportStatistics, VENDOR_ID};
use crate::{Device, Doorbell, Error, InterruptLine, Platform, Space, Window};

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;

const WINDOW_LEN: u32 = 0x1000;

/// More than any device has; each queue takes a doorbell.
const QUEUE_LIMIT: u16 = 1024;

/// A virtio device behind memory-mapped registers.
pub struct MmioTransport {
    transport: Transport,
    interrupt: Arc<MmioInterrupt>,
    base: u32,
    _doorbells: Doorbells,
}

/// The interrupt line, shared by all causes; the status register tells them apart.
struct MmioInterrupt {
    line: InterruptLine,
    status: AtomicU32,
}

impl Interrupt for MmioInterrupt {
    fn raise(&self, cause: Cause) -> bool {
        let bit = match cause {
            Cause::Queue(_) => VIRTIO_MMIO_INT_VRING,
            Cause::Config => VIRTIO_MMIO_INT_CONFIG,
        };
        self.status.fetch_or(bit, Ordering::AcqRel);
        self.line.event.write(1).is_ok()
    }
}

impl MmioTransport {
    /// The length of the register window, in bytes.
    pub const WINDOW_BYTES: u64 = WINDOW_LEN as u64;

    /// Puts `device` at guest physical address `base`, below 4 GiB, with interrupt `line`.
    pub fn new(
        base: u64,
        line: InterruptLine,
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        platform: Arc<dyn Platform>,
    ) -> Result<Self, Error> {
        let interrupt = Arc::new(MmioInterrupt {
            line,
            status: AtomicU32::new(0),
        });
        let shared = Arc::clone(&interrupt) as Arc<dyn Interrupt>;
        let transport = Transport::new(device, memory, shared, QUEUE_LIMIT)?;
        let Ok(base) = u32::try_from(base) else {
            return Err(Error::BadWindow {
                device: transport.name().to_owned(),
                window: Window {
                    space: Space::Memory,
                    base,
                    len_bytes: Self::WINDOW_BYTES,
                },
            });
        };
        let mut doorbells = Doorbells::new(platform);
        for (index, setup) in (0..).zip(transport.queues()) {
            let address = u64::from(base) + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY);
            doorbells.attach(
                Doorbell {
                    address,
                    value: Some(index),
                },
                setup.doorbell(),
            );
        }
        Ok(Self {
            transport,
            interrupt,
            base,
            _doorbells: doorbells,
        })
    }

    /// What the transport counts.
    pub fn statistics(&self) -> Arc<TransportStatistics> {
        Arc::clone(self.transport.statistics())
    }

    fn read_register(&self, register: u32) -> u32 {
        let queue = self.transport.queue();
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.transport.device_type().into(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR_ID.into(),
            VIRTIO_MMIO_DEVICE_FEATURES => self.transport.device_features(),
            VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |setup| setup.max_size().into()),
            VIRTIO_MMIO_QUEUE_READY => queue.is_some_and(QueueSetup::enabled).into(),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status.load(Ordering::Acquire),
            VIRTIO_MMIO_STATUS => self.transport.status(),
            // A shared memory region that does not exist has length -1.
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            VIRTIO_MMIO_CONFIG_GENERATION => self.transport.config_generation().into(),
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u32, value: u32) {
        let transport = &mut self.transport;
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => transport.device_feature_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => transport.driver_feature_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES => transport.set_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => transport.queue_select = value,
            // A size of no queue at all is kept as one that no queue can have.
            VIRTIO_MMIO_QUEUE_NUM => transport.set_queue_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_READY if value == 1 => transport.enable_queue(),
            VIRTIO_MMIO_QUEUE_READY if value == 0 => transport.disable_queue(),
            VIRTIO_MMIO_QUEUE_NOTIFY => transport.ring(value),
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.interrupt.status.fetch_and(!value, Ordering::AcqRel);
            }
            VIRTIO_MMIO_STATUS => {
                transport.set_status(value);
                if value == 0 {
                    self.interrupt.status.store(0, Ordering::Release);
                }
            }
            _ => {
                if let Some((area, half)) = queue_address(register) {
                    transport.set_queue_address(area, half, value);
                }
            }
        }
    }
}

/// The part of a queue whose address `register` holds.
fn queue_address(register: u32) -> Option<(Area, Half)> {
    Some(match register {
        VIRTIO_MMIO_QUEUE_DESC_LOW => (Area::Descriptors, Half::Low),
        VIRTIO_MMIO_QUEUE_DESC_HIGH => (Area::Descriptors, Half::High),
        VIRTIO_MMIO_QUEUE_AVAIL_LOW => (Area::Driver, Half::Low),
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH => (Area::Driver, Half::High),
        VIRTIO_MMIO_QUEUE_USED_LOW => (Area::Device, Half::Low),
        VIRTIO_MMIO_QUEUE_USED_HIGH => (Area::Device, Half::High),
        _ => return None,
    })
}

/// The offset into the device configuration space, for an access that lies there.
fn config_offset(offset: u64) -> Option<u64> {
    offset.checked_sub(VIRTIO_MMIO_CONFIG.into())
}

impl Device for MmioTransport {
    fn name(&self) -> &str {
        self.transport.name()
    }

    fn windows(&self) -> Vec<Window> {
        let (space, base) = (Space::Memory, self.base.into());
        vec![Window {
            space,
            base,
            len_bytes: Self::WINDOW_BYTES,
        }]
    }

    fn interrupt(&self) -> Option<&InterruptLine> {
        Some(&self.interrupt.line)
    }

    /// The node by which Linux finds the device; its name is `V` and the page of its registers, so
    /// that devices side by side have different names.
    fn append_aml(&self, sink: &mut dyn AmlSink) {
        let number = self.base >> 12 & 0xfff;
        aml::Device::new(
            format!("V{number:03X}").as_str().into(),
            vec![
                &aml::Name::new("_HID".into(), &"LNRO0005"),
                &aml::Name::new("_UID".into(), &number),
                &aml::Name::new("_CCA".into(), &aml::ONE),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![
                        &aml::Memory32Fixed::new(true, self.base, WINDOW_LEN),
                        &aml::Interrupt::new(true, true, false, false, self.interrupt.line.gsi),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }

    /// Registers are 32 bits wide (virtio 1.2 section 4.2.2.2); the configuration space is not.
    fn read(&mut self, _window: usize, offset: u64, data: &mut [u8]) {
        if let Some(offset) = config_offset(offset) {
            self.transport.read_config(offset, data);
        } else if data.len() == 4
            && let Ok(register) = u32::try_from(offset)
        {
            data.copy_from_slice(&self.read_register(register).to_le_bytes());
        }
    }

    fn write(&mut self, _window: usize, offset: u64, data: &[u8]) {
        if let Some(offset) = config_offset(offset) {
            self.transport.write_config(offset, data);
        } else if let (Ok(register), Ok(value)) = (u32::try_from(offset), data.try_into()) {
            self.write_register(register, u32::from_le_bytes(value));
        }
    }
}
