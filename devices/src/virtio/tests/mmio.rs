//! What only the memory-mapped transport has.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::drivers::{Driver, MMIO_BASE, Mmio, NEEDS_RESET, VERSION_1, guest_memory};
use super::fake_device::{FakeDevice, Handle};
use crate::platform_fake::FakePlatform;
use crate::virtio::MmioTransport;
use crate::{Device, Doorbell, Error, InterruptLine};

const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;

#[test]
fn identity_registers_name_the_device() {
    let mut driver = Mmio::new();
    assert_eq!(
        [0, 4, 8].map(|register| driver.get(register)),
        [0x7472_6976, 2, 2]
    );
    assert_eq!(driver.get(0xb0), u32::MAX, "there is no shared memory");
}

#[test]
fn interrupts_tell_their_cause_until_acknowledged() {
    let mut driver = Mmio::new();
    driver.start(VERSION_1);
    let notifier = driver.handle.notifier();
    notifier.queue_used(0);
    assert_eq!(driver.get(INTERRUPT_STATUS), 1);
    notifier.config_changed();
    assert_eq!(driver.get(INTERRUPT_STATUS), 3);
    driver.set(INTERRUPT_ACK, 1);
    assert_eq!(driver.get(INTERRUPT_STATUS), 2);
    assert_eq!(
        driver.transport.interrupt().unwrap().event.read().unwrap(),
        2
    );
    assert_eq!(driver.transport.statistics().interrupts(), 2);
    driver.set_status(0);
    assert_eq!(driver.get(INTERRUPT_STATUS), 0);
}

#[test]
fn each_queue_has_a_doorbell_by_its_number() {
    let driver = Mmio::new();
    let platform = Arc::clone(&driver.platform);
    let doorbell = |queue| Doorbell {
        address: MMIO_BASE + 0x50,
        value: Some(queue),
    };
    assert_eq!(platform.doorbells(), [doorbell(0), doorbell(1)]);
    drop(driver);
    assert_eq!(platform.doorbells(), []);
}

#[test]
fn taking_a_queue_from_a_running_device_stops_it() {
    let mut driver = Mmio::new();
    driver.start(VERSION_1);
    driver.select_queue(1);
    driver.set(0x44, 0);
    assert!(driver.handle.running(), "the queue was not in use");
    driver.select_queue(0);
    driver.set(0x44, 0);
    assert!(!driver.queue_enabled());
    assert!(!driver.handle.running());
    assert_eq!(driver.status() & NEEDS_RESET, NEEDS_RESET);
    assert_eq!(driver.get(INTERRUPT_STATUS), 2);
    driver.start(VERSION_1);
    assert!(driver.handle.running());
}

#[test]
fn registers_answer_only_whole_words() {
    let mut driver = Mmio::new();
    driver.transport.write(0, 0x70, &[1]);
    driver.transport.write(0, 0x70, &[1, 0, 0, 0, 0, 0, 0, 0]);
    driver.transport.write(0, 0x71, &[1, 0, 0, 0]);
    assert_eq!(driver.status(), 0);
    // A queue number that differs only above bit 15 is another queue, and there is none.
    driver.set(0x30, 0x1_0000);
    assert_eq!(driver.queue_size_max(), 0);
    driver.set(0x30, 0);
    driver.set(0x38, 0x1_0010);
    driver.set_queue_addresses(0x1000, 0x2000, 0x3000);
    driver.enable_queue();
    assert!(!driver.queue_enabled(), "no queue has 65552 entries");
}

#[test]
fn devices_side_by_side_have_their_own_nodes() {
    let node = |base| {
        let line = InterruptLine {
            gsi: 5,
            event: EventFd::new(0).unwrap(),
        };
        let device = Box::new(FakeDevice::new(&Handle::default()));
        let platform = Arc::new(FakePlatform::default());
        let transport = MmioTransport::new(base, line, device, guest_memory(), platform).unwrap();
        let mut aml = Vec::new();
        transport.append_aml(&mut aml);
        aml
    };
    let contains = |aml: &[u8], what: &[u8]| aml.windows(what.len()).any(|part| part == what);
    let (first, second) = (node(MMIO_BASE), node(MMIO_BASE + 0x1000));
    assert!(contains(&first, b"V000") && contains(&second, b"V001"));
    assert!(contains(&first, b"LNRO0005"));
    assert!(contains(&second, &0xe800_1000_u32.to_le_bytes()));
}

#[test]
fn registers_above_4_gib_are_refused() {
    let line = InterruptLine {
        gsi: 5,
        event: EventFd::new(0).unwrap(),
    };
    let device = Box::new(FakeDevice::new(&Handle::default()));
    let platform = Arc::new(FakePlatform::default());
    let result = MmioTransport::new(1 << 32, line, device, guest_memory(), platform.clone());
    assert!(matches!(result, Err(Error::BadWindow { .. })));
    assert_eq!(platform.doorbells(), []);
}
