//! The common configuration structure (virtio 1.2 section 4.1.4.3).

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::interrupts::PciInterrupts;
use crate::virtio::queue_setup::{Area, Half, QueueSetup};
use crate::virtio::transport::Transport;

/// The registers as they read. The driver selects a queue, and sees it in the fields from
/// `queue_size` on.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct CommonConfig {
    device_feature_select: U32,
    device_feature: U32,
    driver_feature_select: U32,
    driver_feature: U32,
    config_msix_vector: U16,
    num_queues: U16,
    device_status: u8,
    config_generation: u8,
    queue_select: U16,
    queue_size: U16,
    queue_msix_vector: U16,
    queue_enable: U16,
    queue_notify_off: U16,
    queue_desc: U64,
    queue_driver: U64,
    queue_device: U64,
    queue_notify_data: U16,
    queue_reset: U16,
}

/// The length of the structure.
pub(super) const LEN_BYTES: usize = size_of::<CommonConfig>();

const _: () = assert!(LEN_BYTES == 60);

const DEVICE_FEATURE_SELECT: usize = offset_of!(CommonConfig, device_feature_select);
const DRIVER_FEATURE_SELECT: usize = offset_of!(CommonConfig, driver_feature_select);
const DRIVER_FEATURE: usize = offset_of!(CommonConfig, driver_feature);
const CONFIG_MSIX_VECTOR: usize = offset_of!(CommonConfig, config_msix_vector);
const DEVICE_STATUS: usize = offset_of!(CommonConfig, device_status);
const QUEUE_SELECT: usize = offset_of!(CommonConfig, queue_select);
const QUEUE_SIZE: usize = offset_of!(CommonConfig, queue_size);
const QUEUE_MSIX_VECTOR: usize = offset_of!(CommonConfig, queue_msix_vector);
const QUEUE_ENABLE: usize = offset_of!(CommonConfig, queue_enable);
const QUEUE_DESC: usize = offset_of!(CommonConfig, queue_desc);
const QUEUE_DRIVER: usize = offset_of!(CommonConfig, queue_driver);
const QUEUE_DEVICE: usize = offset_of!(CommonConfig, queue_device);

/// Reads, at any width; reading has no effects. What lies past the end reads as zero.
pub(super) fn read(
    transport: &Transport,
    interrupts: &PciInterrupts,
    offset: usize,
    data: &mut [u8],
) {
    let config = CommonConfig::of(transport, interrupts);
    for (at, byte) in (offset..).zip(data) {
        *byte = config.as_bytes().get(at).copied().unwrap_or(0);
    }
}

/// Writes one field in its own width, or a 64-bit field by its halves (virtio 1.2 section 4.1.3.1);
/// others are ignored.
pub(super) fn write(
    transport: &mut Transport,
    interrupts: &PciInterrupts,
    offset: usize,
    data: &[u8],
) {
    match *data {
        [value] if offset == DEVICE_STATUS => {
            transport.set_status(value.into());
            if value == 0 {
                interrupts.reset();
            }
        }
        [a, b] => write_u16(transport, interrupts, offset, u16::from_le_bytes([a, b])),
        [a, b, c, d] => write_u32(transport, offset, u32::from_le_bytes([a, b, c, d])),
        _ if data.len() == 8 && matches!(offset, QUEUE_DESC | QUEUE_DRIVER | QUEUE_DEVICE) => {
            let (low, high) = data.split_at(4);
            write(transport, interrupts, offset, low);
            write(transport, interrupts, offset + 4, high);
        }
        _ => {}
    }
}

fn write_u16(transport: &mut Transport, interrupts: &PciInterrupts, offset: usize, value: u16) {
    match offset {
        CONFIG_MSIX_VECTOR => interrupts.set_config_vector(value),
        QUEUE_SELECT => transport.queue_select = value.into(),
        QUEUE_SIZE => transport.set_queue_size(value),
        QUEUE_MSIX_VECTOR => interrupts.set_queue_vector(transport.queue_select, value),
        // Only 1 may be written (section 4.1.4.3.2).
        QUEUE_ENABLE if value == 1 => transport.enable_queue(),
        _ => {}
    }
}

fn write_u32(transport: &mut Transport, offset: usize, value: u32) {
    let halves = [
        (QUEUE_DESC, Area::Descriptors),
        (QUEUE_DRIVER, Area::Driver),
        (QUEUE_DEVICE, Area::Device),
    ];
    match offset {
        DEVICE_FEATURE_SELECT => transport.device_feature_select = value,
        DRIVER_FEATURE_SELECT => transport.driver_feature_select = value,
        DRIVER_FEATURE => transport.set_driver_features(value),
        _ => {
            for (low, area) in halves {
                if offset == low {
                    transport.set_queue_address(area, Half::Low, value);
                } else if offset == low + 4 {
                    transport.set_queue_address(area, Half::High, value);
                }
            }
        }
    }
}

impl CommonConfig {
    fn of(transport: &Transport, interrupts: &PciInterrupts) -> Self {
        let queue = transport.queue();
        let address = |area| queue.map_or(0, |setup| setup.address(area)).into();
        let select = u16::try_from(transport.queue_select).unwrap_or(u16::MAX);
        Self {
            device_feature_select: transport.device_feature_select.into(),
            device_feature: transport.device_features().into(),
            driver_feature_select: transport.driver_feature_select.into(),
            driver_feature: transport.driver_features().into(),
            config_msix_vector: interrupts.config_vector().into(),
            num_queues: u16::try_from(transport.queues().len())
                .unwrap_or(u16::MAX)
                .into(),
            // All status bits lie in the low byte.
            device_status: transport.status().to_le_bytes()[0],
            config_generation: transport.config_generation(),
            queue_select: select.into(),
            // Zero says that there is no such queue.
            queue_size: queue.map_or(0, QueueSetup::size).into(),
            queue_msix_vector: interrupts.queue_vector(transport.queue_select).into(),
            queue_enable: u16::from(queue.is_some_and(QueueSetup::enabled)).into(),
            // Each queue has its own doorbell, in the order of the queues.
            queue_notify_off: queue.map_or(0, |_| select).into(),
            queue_desc: address(Area::Descriptors),
            queue_driver: address(Area::Driver),
            queue_device: address(Area::Device),
            queue_notify_data: 0.into(),
            queue_reset: 0.into(),
        }
    }
}
