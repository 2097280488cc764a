//! What only the PCI transport has.

use std::sync::Arc;

use super::drivers::{Driver, ECAM_BASE, PCI_MEMORY, Pci, VERSION_1, guest_memory};
use super::fake_device::{FakeDevice, Handle};
use crate::platform_fake::FakePlatform;
use crate::{Device, Doorbell, Error, MsiMessage, PciRoot};

const NO_VECTOR: u16 = 0xffff;
const CONFIG_VECTOR: u64 = 16;
const QUEUE_VECTOR: u64 = 26;
const MSIX_ENABLE: u16 = 0x8000;
const MSIX_MASK_ALL: u16 = 0x4000;
const MASKED: u32 = 1;

fn message(data: u32) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_0000,
        data,
    }
}

/// Gives vector 0 to the configuration and vector 1 to queue 0, as Linux does, and starts.
fn start_with_vectors(driver: &mut Pci) {
    driver.set_msix_control(MSIX_ENABLE | MSIX_MASK_ALL);
    driver.set_vector(0, 0xfee0_0000, 0x30, 0);
    driver.set_vector(1, 0xfee0_0000, 0x31, 0);
    driver.set_msix_control(MSIX_ENABLE);
    driver.start(VERSION_1);
    driver.set_common(CONFIG_VECTOR, &[0, 0]);
    driver.select_queue(0);
    driver.set_common(QUEUE_VECTOR, &[1, 0]);
}

#[test]
fn the_bus_has_a_host_bridge_and_the_device() {
    let mut driver = Pci::new();
    let mut id = [0; 4];
    driver.root.read(0, 0, &mut id);
    assert_eq!(id, [0x36, 0x1b, 0x08, 0x00]);
    assert_eq!(driver.config32(0), 0x1042_1af4);
    assert_eq!(driver.config32(8), 0x0180_0001);
    assert_eq!(driver.config8(0x3d), 0, "there is no interrupt pin");
    // No second function, no third device.
    for offset in [1 << 12, 1 << 15 | 1 << 12, 2 << 15, (1 << 20) - 4] {
        let mut id = [0xff; 4];
        driver.root.read(0, offset, &mut id);
        assert_eq!(id, [0xff; 4], "at {offset:#x}");
    }
    let windows = driver.root.windows();
    assert_eq!(
        (windows[0].base, windows[0].len_bytes),
        (ECAM_BASE, 1 << 20)
    );
    assert_eq!(
        (windows[1].base, windows[1].len_bytes),
        (PCI_MEMORY.start, 0x100_0000)
    );
}

#[test]
fn capabilities_lead_to_structures_that_do_not_overlap() {
    let layout = Pci::new().layout;
    let structures = [
        (layout.common, 60),
        (layout.isr, 1),
        (layout.device, 0x1000),
        (layout.notify, 8),
        (layout.msix_table, 3 * 16),
        (layout.msix_pending, 8),
    ];
    for (index, (start, len)) in structures.iter().enumerate() {
        assert!(start + len <= 0x8000);
        for (other, _) in &structures[index + 1..] {
            assert!(!(*start..start + len).contains(other), "{layout:x?}");
        }
    }
    assert_ne!(layout.access, 0);
}

#[test]
fn registers_answer_only_while_memory_is_decoded() {
    let mut driver = Pci::new();
    driver.set_status(1);
    driver.set_config16(0x04, 0x0004);
    assert_eq!(driver.status(), 0xff);
    driver.set_status(3);
    driver.set_config16(0x04, 0x0002);
    assert_eq!(driver.status(), 1);
}

#[test]
fn doorbells_follow_the_register_window() {
    let mut driver = Pci::new();
    let platform = Arc::clone(&driver.platform);
    let doorbells_at = |base| {
        let notify = base + driver.layout.notify;
        [notify, notify + 4].map(|address| Doorbell {
            address,
            value: None,
        })
    };
    let (old, new) = (doorbells_at(driver.bar), doorbells_at(0xc080_0000));
    assert_eq!(platform.doorbells(), old);
    driver.set_config16(0x04, 0);
    assert_eq!(platform.doorbells(), []);
    driver.set_config32(0x10, 0xc080_0000);
    assert_eq!(platform.doorbells(), []);
    driver.set_config16(0x04, 2);
    assert_eq!(platform.doorbells(), new);
    driver.bar = 0xc080_0000;
    driver.set_status(1);
    assert_eq!(driver.status(), 1);
    // Over memory, the ECAM, another device: nothing may be taken there.
    for base in [0, 0x1000_0000, 0xe000_0000, 0xfec0_0000, 0xffff_8000] {
        driver.set_config32(0x10, base);
        assert_eq!(platform.doorbells(), [], "at {base:#x}");
    }
    driver.set_config32(0x10, 0xc080_0000);
    assert_eq!(platform.doorbells(), new);
    drop(driver);
    assert_eq!(platform.doorbells(), []);
}

#[test]
fn functions_at_one_place_share_no_doorbells() {
    let platform = Arc::new(FakePlatform::default());
    let mut root = PciRoot::new(ECAM_BASE, PCI_MEMORY, platform.clone());
    for _ in 0..2 {
        root.add_virtio(
            Box::new(FakeDevice::new(&Handle::default())),
            guest_memory(),
        )
        .unwrap();
    }
    for device in [1_u64, 2] {
        root.write(0, device << 15 | 0x10, &0xc000_0000_u32.to_le_bytes());
        root.write(0, device << 15 | 0x04, &[2, 0]);
    }
    assert_eq!(platform.doorbells().len(), 2);
    root.write(0, 1 << 15 | 0x04, &[0, 0]);
    assert_eq!(platform.doorbells().len(), 0);
    root.write(0, 2 << 15 | 0x10, &0xc010_0000_u32.to_le_bytes());
    assert_eq!(platform.doorbells().len(), 2);
}

#[test]
fn functions_answer_their_own_addresses_only() {
    let handles = [Handle::default(), Handle::default()];
    let platform = Arc::new(FakePlatform::default());
    let mut root = PciRoot::new(ECAM_BASE, PCI_MEMORY, platform);
    for (device, handle) in (1_u64..).zip(&handles) {
        root.add_virtio(Box::new(FakeDevice::new(handle)), guest_memory())
            .unwrap();
        root.write(0, device << 15 | 0x04, &[2, 0]);
    }
    let config = Pci::new().layout.device;
    root.write(1, config, &[1]);
    root.write(1, 0x8000 + config, &[2]);
    assert_eq!(
        handles.each_ref().map(|handle| handle.log().config[0]),
        [1, 2]
    );
    let mut data = [0xff; 4];
    root.read(1, 0x8000 - 2, &mut data);
    assert_eq!(
        data, [0xff; 4],
        "what nobody answers stays as the bus prepared it"
    );
    root.read(1, 0x8000 * 2, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn each_event_has_its_vector() {
    let mut driver = Pci::new();
    start_with_vectors(&mut driver);
    let vectors = driver.platform.vectors();
    assert_eq!(vectors.len(), 3);
    assert_eq!(vectors[0].connection(), Some(message(0x30)));
    assert_eq!(vectors[1].connection(), Some(message(0x31)));
    assert_eq!(vectors[2].connection(), None);
    let notifier = driver.handle.notifier();
    notifier.queue_used(0);
    assert_eq!(
        [0, 1, 2].map(|vector: usize| vectors[vector].take()),
        [0, 1, 0]
    );
    notifier.needs_reset();
    assert_eq!(
        [0, 1, 2].map(|vector: usize| vectors[vector].take()),
        [1, 0, 0]
    );
    // Queue 1 has no vector.
    notifier.queue_used(1);
    assert_eq!(
        [0, 1, 2].map(|vector: usize| vectors[vector].take()),
        [0, 0, 0]
    );
    let mut status = [0xff];
    driver.read(driver.layout.isr, &mut status);
    assert_eq!(
        status,
        [0],
        "the status register is for drivers without MSI-X"
    );
}

#[test]
fn doorbells_lie_in_the_order_of_the_queues() {
    let mut driver = Pci::new();
    assert_eq!(driver.layout.notify_multiplier, 4);
    for queue in 0..2 {
        driver.select_queue(queue);
        assert_eq!(driver.common16(30), queue);
    }
}

#[test]
fn vectors_that_do_not_exist_read_back_as_none() {
    let mut driver = Pci::new();
    driver.set_common(CONFIG_VECTOR, &3_u16.to_le_bytes());
    assert_eq!(driver.common16(CONFIG_VECTOR), NO_VECTOR);
    driver.set_common(CONFIG_VECTOR, &2_u16.to_le_bytes());
    assert_eq!(driver.common16(CONFIG_VECTOR), 2);
    driver.select_queue(7);
    driver.set_common(QUEUE_VECTOR, &1_u16.to_le_bytes());
    assert_eq!(driver.common16(QUEUE_VECTOR), NO_VECTOR);
    driver.select_queue(1);
    driver.set_common(QUEUE_VECTOR, &1_u16.to_le_bytes());
    assert_eq!(driver.common16(QUEUE_VECTOR), 1);
    driver.set_status(0);
    driver.select_queue(1);
    assert_eq!(driver.common16(QUEUE_VECTOR), NO_VECTOR);
    assert_eq!(driver.common16(CONFIG_VECTOR), NO_VECTOR);
}

#[test]
fn masked_vectors_stay_pending() {
    let mut driver = Pci::new();
    start_with_vectors(&mut driver);
    let vectors = driver.platform.vectors();
    let pending = |driver: &mut Pci| {
        let mut bits = [0xff; 8];
        driver.read(driver.layout.msix_pending, &mut bits);
        u64::from_le_bytes(bits)
    };
    driver.set_vector(1, 0xfee0_0000, 0x31, MASKED);
    assert_eq!(vectors[1].connection(), None);
    assert_eq!(pending(&mut driver), 0);
    driver.handle.notifier().queue_used(0);
    assert_eq!(pending(&mut driver), 0b10);
    assert_eq!(
        pending(&mut driver),
        0b10,
        "looking does not take the interrupt"
    );
    driver.set_vector(1, 0xfee0_0000, 0x32, 0);
    assert_eq!(vectors[1].connection(), Some(message(0x32)));
    assert_eq!(pending(&mut driver), 0, "the machine sends it now");
    driver.set_msix_control(MSIX_ENABLE | MSIX_MASK_ALL);
    assert_eq!(pending(&mut driver), 0b10);
    assert_eq!(vectors[1].take(), 1);
}

#[test]
fn routes_change_only_when_messages_do() {
    let mut driver = Pci::new();
    start_with_vectors(&mut driver);
    let vectors = driver.platform.vectors();
    let changes = vectors[1].changes();
    driver.set_vector(1, 0xfee0_0000, 0x31, 0);
    driver.set_msix_control(MSIX_ENABLE);
    driver.set_config16(0x04, 0x0406);
    assert_eq!(vectors[1].changes(), changes);
    assert_eq!(vectors[2].changes(), 0);
}

#[test]
fn the_table_reads_back_and_keeps_reserved_bits_clear() {
    let mut driver = Pci::new();
    driver.set_vector(2, 0x1_fee0_0010, 0xabcd, 0xffff_fffe);
    let mut entry = [0xff; 16];
    driver.read(driver.layout.msix_table + 32, &mut entry);
    let mut expected = [0; 16];
    expected[..8].copy_from_slice(&0x1_fee0_0010_u64.to_le_bytes());
    expected[8..12].copy_from_slice(&0xabcd_u32.to_le_bytes());
    assert_eq!(entry, expected);
    driver.write(driver.layout.msix_table + 32, &[0xff; 2]);
    driver.write(driver.layout.msix_table + 34, &[0xff; 4]);
    driver.write(driver.layout.msix_table + 48, &[0xff; 4]);
    driver.read(driver.layout.msix_table + 32, &mut entry);
    assert_eq!(entry, expected);
    driver.write(driver.layout.msix_table + 40, &[1; 8]);
    driver.read(driver.layout.msix_table + 32, &mut entry);
    assert_eq!(entry[8..], [1, 1, 1, 1, 1, 0, 0, 0]);
}

#[test]
fn without_msix_the_status_register_can_be_polled() {
    let mut driver = Pci::new();
    driver.start(VERSION_1);
    driver.handle.notifier().queue_used(0);
    driver.handle.notifier().config_changed();
    let isr = driver.layout.isr;
    let mut status = [0xff];
    driver.read(isr, &mut status);
    assert_eq!(status, [3]);
    driver.read(isr, &mut status);
    assert_eq!(status, [0]);
}

#[test]
fn the_access_capability_reaches_the_registers() {
    let mut driver = Pci::new();
    let access = driver.layout.access;
    let reach = |driver: &mut Pci, bar: u8, offset: u64, length: u32| {
        driver.root.write(0, (1 << 15) + access + 4, &[bar]);
        driver.set_config32(access + 8, u32::try_from(offset).unwrap());
        driver.set_config32(access + 12, length);
    };
    let status = driver.layout.common + 20;
    reach(&mut driver, 0, status, 1);
    driver.root.write(0, (1 << 15) + access + 16, &[1]);
    assert_eq!(driver.status(), 1);
    assert_eq!(driver.config8(access + 16), 1);
    reach(&mut driver, 0, status - 16, 4);
    assert_ne!(driver.config32(access + 16), 0);
    // Another register, an odd length, no alignment, past the end.
    for (bar, offset, length) in [
        (1, status, 1),
        (0, status, 3),
        (0, status + 1, 4),
        (0, 0x8000, 4),
        (0, 0, 0),
    ] {
        reach(&mut driver, bar, offset, length);
        driver.set_config32(access + 16, 0);
        assert_eq!(driver.status(), 1, "{bar} {offset:#x} {length}");
        driver.config32(access + 16);
    }
}

#[test]
fn statistics_count_interrupts_and_exits() {
    let mut driver = Pci::new();
    start_with_vectors(&mut driver);
    driver.ring(0);
    driver.handle.notifier().queue_used(0);
    driver.handle.notifier().queue_used(0);
    // No driver listens to queue 1.
    driver.handle.notifier().queue_used(1);
    let statistics = &driver.statistics;
    assert_eq!(statistics.name(), "fake0");
    assert_eq!(
        (statistics.interrupts(), statistics.doorbell_exits()),
        (2, 1)
    );
}

#[test]
fn a_full_bus_refuses_devices() {
    let mut root = PciRoot::new(ECAM_BASE, PCI_MEMORY, Arc::new(FakePlatform::default()));
    let mut add = || {
        root.add_virtio(
            Box::new(FakeDevice::new(&Handle::default())),
            guest_memory(),
        )
    };
    for _ in 0..31 {
        add().unwrap();
    }
    assert!(matches!(add(), Err(Error::BusFull { limit: 31, .. })));

    let memory = 0xc000_4000..0xc001_8000;
    let mut root = PciRoot::new(ECAM_BASE, memory, Arc::new(FakePlatform::default()));
    let mut add = || {
        root.add_virtio(
            Box::new(FakeDevice::new(&Handle::default())),
            guest_memory(),
        )
    };
    add().unwrap();
    add().unwrap();
    assert!(matches!(
        add(),
        Err(Error::WindowFull {
            len_bytes: 0x8000,
            ..
        })
    ));
}

#[test]
fn more_queues_than_vectors_are_refused() {
    let mut root = PciRoot::new(ECAM_BASE, PCI_MEMORY, Arc::new(FakePlatform::default()));
    let mut device = FakeDevice::new(&Handle::default());
    device.queue_sizes = vec![16; 256];
    let result = root.add_virtio(Box::new(device), guest_memory());
    assert!(matches!(
        result,
        Err(Error::TooManyQueues {
            queues: 256,
            limit: 255,
            ..
        })
    ));
}
