use std::collections::HashSet;

use super::*;
use crate::virtio::driver_mock::{HOLE, MockDriver, readable, writable};

fn rig() -> (MockDriver, Entropy) {
    let mut driver = MockDriver::new(&[64]);
    let mut device = Entropy::new("rng0");
    device.activate(driver.activation(0)).unwrap();
    (driver, device)
}

#[test]
fn fills_every_piece_and_no_more() {
    let (mut driver, _device) = rig();
    let memory = driver.place(&[0; 256]);
    driver.send(0, &[writable(memory, 40), writable(memory + 100, 30)]);
    assert_eq!(driver.wait_used(0).len, 70);
    let bytes = driver.bytes(memory, 256);
    assert_ne!(bytes[..40], [0; 40]);
    assert_eq!(bytes[40..100], [0; 60]);
    assert_ne!(bytes[100..130], [0; 30]);
    assert_eq!(bytes[130..], [0; 126]);
}

#[test]
fn answers_differ() {
    let (mut driver, _device) = rig();
    let memory = driver.allocate(64 * 16);
    let queue = &mut driver.queues[0];
    for at in 0..64 {
        queue.add(&[writable(memory + 16 * at, 16)]);
    }
    queue.kick();
    for _ in 0..64 {
        assert_eq!(driver.wait_used(0).len, 16);
    }
    let answers: HashSet<_> = (0..64)
        .map(|at| driver.bytes(memory + 16 * at, 16))
        .collect();
    assert_eq!(answers.len(), 64);
}

#[test]
fn large_request_gets_a_part() {
    let (mut driver, _device) = rig();
    let memory = driver.place(&[0; 8192]);
    driver.send(0, &[writable(memory, 8192)]);
    assert_eq!(driver.wait_used(0).len, 4096);
    assert_eq!(driver.bytes(memory + 4096, 4096), [0; 4096]);
}

#[test]
fn malicious_chains_break_the_device_until_a_reset() {
    let (mut driver, mut device) = rig();
    for parts in [
        [readable(0x1000, 16)].as_slice(),
        &[writable(0x1000, 0)],
        &[writable(HOLE.start, 16)],
        &[writable(0x1000, 16), readable(0x1000, 16)],
    ] {
        let before = driver.notifier.needs_reset();
        driver.send(0, parts);
        driver
            .notifier
            .wait(|needs_reset| (needs_reset > before).then_some(()));
        device.reset();
        assert!(driver.queues[0].take_used().is_none(), "{parts:?}");
        device.activate(driver.activation(0)).unwrap();
    }
    let memory = driver.allocate(16);
    driver.send(0, &[writable(memory, 16)]);
    assert_eq!(driver.wait_used(0).len, 16);
}

#[test]
fn nothing_is_served_after_a_reset() {
    let (mut driver, mut device) = rig();
    device.reset();
    let memory = driver.place(&[0; 16]);
    driver.send(0, &[writable(memory, 16)]);
    device.reset();
    drop(device);
    assert_eq!(driver.queues[0].used_index(), 0);
    assert_eq!(driver.bytes(memory, 16), [0; 16]);
}

#[test]
fn device_without_a_queue_idles() {
    let mut driver = MockDriver::new(&[64]);
    let mut device = Entropy::new("rng0");
    let mut activation = driver.activation(0);
    activation.queues.clear();
    device.activate(activation).unwrap();
    device.reset();
}
