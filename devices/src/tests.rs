//! A board of all port devices under a guest that accesses anything in any order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use crate::platform_fake::FakePlatform;
use crate::random_test::Random;
use crate::{
    AcpiPower, Bus, Device, I8042, InterruptLine, Pvpanic, Rtc, Serial, SerialInput, Space,
};

const ROUNDS: u64 = 20;
const ACCESSES: u64 = 5_000;
const INTERRUPT_ENABLE_PORT: u64 = 0x3f9;
const MODEM_CONTROL_PORT: u64 = 0x3fc;
const LINE_CONTROL_PORT: u64 = 0x3fb;

fn line(gsi: u32) -> InterruptLine {
    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    InterruptLine { gsi, event }
}

fn board(platform: &Arc<FakePlatform>) -> (Bus, SerialInput) {
    let serial = Serial::new(line(4), Box::new(io::sink())).unwrap();
    let input = serial.input();
    let devices: [Box<dyn Device>; 5] = [
        Box::new(serial),
        Box::new(I8042::new(platform.clone())),
        Box::new(Rtc::with_clock(|| Duration::new(u64::MAX, 999_999_999))),
        Box::new(AcpiPower::new(line(9), platform.clone())),
        Box::new(Pvpanic::new(platform.clone())),
    ];
    let mut bus = Bus::new();
    for device in devices {
        bus.insert(device).unwrap();
    }
    (bus, input)
}

/// Ports at and just beside those of the devices, and any.
fn port(random: &mut Random) -> u64 {
    let base = [0x3f8, 0x60, 0x70, 0x600, 0x505, 0xffff];
    match usize::try_from(random.below(7)).unwrap() {
        index @ 0..6 => (base[index] + random.below(10)).saturating_sub(1),
        _ => random.next(),
    }
}

#[test]
fn ports_in_any_order() {
    for seed in 0..ROUNDS {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let platform = Arc::new(FakePlatform::default());
        let (bus, input) = board(&platform);
        for _ in 0..ACCESSES {
            let mut data = random.next().to_le_bytes();
            let len = usize::try_from(random.below(8)).unwrap() + 1;
            let address = port(&mut random);
            match random.below(8) {
                0..3 => bus.read(Space::Port, address, &mut data[..len]),
                3..7 => bus.write(Space::Port, address, &data[..len]),
                _ => assert!(input.send(&[b'x'; 200]) <= 64, "the FIFO has 64 bytes"),
            }
        }
        serial_still_receives(&bus, &input);
    }
}

/// A driver that sets the port up anew gets what is sent to it.
fn serial_still_receives(bus: &Bus, input: &SerialInput) {
    for (port, value) in [
        (LINE_CONTROL_PORT, 3),
        (MODEM_CONTROL_PORT, 8),
        (INTERRUPT_ENABLE_PORT, 1),
    ] {
        bus.write(Space::Port, port, &[value]);
    }
    let read = |port| {
        let mut data = [0];
        bus.read(Space::Port, port, &mut data);
        data[0]
    };
    while read(0x3fd) & 1 != 0 {
        read(0x3f8);
    }
    assert_eq!(input.send(b"ok"), 2);
    assert_eq!((read(0x3fd) & 1, read(0x3f8), read(0x3f8)), (1, b'o', b'k'));
}
