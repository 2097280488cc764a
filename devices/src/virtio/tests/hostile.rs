//! Guests that access any register in any order. The fake device panics where the transport breaks
//! its contract; nothing else may panic, and nothing may be left behind.

use super::drivers::{Driver, Mmio, PCI_MEMORY, Pci, VERSION_1};
use crate::Device;
use crate::random_test::Random;

const ROUNDS: u64 = 40;
const ACCESSES: u64 = 2_000;

/// Values that mean something somewhere, and some that mean nothing.
fn value(random: &mut Random) -> [u8; 8] {
    let bytes = match random.below(8) {
        0 => 0,
        1 => 1,
        2 => random.below(16),
        3 => u64::from([1_u8, 3, 11, 15, 0x80][usize::try_from(random.below(5)).unwrap()]),
        4 => random.below(256) << 12,
        5 => u64::MAX,
        6 => PCI_MEMORY.start + (random.below(64) << 15),
        _ => random.next(),
    };
    bytes.to_le_bytes()
}

fn poke(random: &mut Random, device: &mut dyn Device, window: usize, offset: u64) {
    let len = usize::try_from(random.below(8)).unwrap() + 1;
    // The widths of real instructions come more often.
    let len = if random.below(4) == 0 {
        len
    } else {
        len.next_power_of_two()
    };
    if random.below(3) == 0 {
        device.read(window, offset, &mut [0xff; 8][..len]);
    } else {
        device.write(window, offset, &value(random)[..len]);
    }
}

#[test]
fn mmio_registers_in_any_order() {
    for seed in 0..ROUNDS {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut driver = Mmio::new();
        for _ in 0..ACCESSES {
            if random.below(50) == 0 {
                driver.start(VERSION_1);
            }
            let offset = if random.below(4) == 0 {
                random.below(0x1000 - 8)
            } else {
                random.below(0x110 / 4) * 4
            };
            poke(&mut random, &mut driver.transport, 0, offset);
            if let Some(notifier) = driver.handle.log().notifier.clone() {
                notifier.queue_used(u16::try_from(random.below(4)).unwrap());
            }
        }
        driver.start(VERSION_1);
        assert!(driver.handle.running(), "a reset heals everything");
        let platform = driver.platform.clone();
        assert_eq!(platform.doorbells().len(), 2);
        drop(driver);
        assert_eq!(platform.doorbells(), []);
    }
}

#[test]
fn pci_registers_in_any_order() {
    for seed in 0..ROUNDS {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut driver = Pci::new();
        for _ in 0..ACCESSES {
            poke_pci(&mut random, &mut driver);
            if let Some(notifier) = driver.handle.log().notifier.clone() {
                notifier.queue_used(u16::try_from(random.below(4)).unwrap());
                notifier.config_changed();
            }
        }
        driver.bar = PCI_MEMORY.start;
        driver.set_config32(0x10, u32::try_from(PCI_MEMORY.start).unwrap());
        driver.set_config16(0x04, 6);
        driver.start(VERSION_1);
        assert!(driver.handle.running(), "a reset heals everything");
        let platform = driver.platform.clone();
        assert_eq!(platform.doorbells().len(), 2);
        assert_eq!(platform.vectors().len(), 3);
        drop(driver);
        assert_eq!(platform.doorbells(), []);
        assert!(
            platform
                .vectors()
                .iter()
                .all(|vector| vector.connection().is_none())
        );
    }
}

fn poke_pci(random: &mut Random, driver: &mut Pci) {
    match random.below(8) {
        0 => {
            let offset = random_offset(random, (1 << 20) - 8);
            poke(random, &mut driver.root, 0, offset);
        }
        1 => {
            // The function's own registers and its capabilities.
            let offset = (1 << 15) + random.below(64) * 4;
            poke(random, &mut driver.root, 0, offset);
        }
        2 => {
            let offset = random_offset(random, 0x100_0000 - 8);
            poke(random, &mut driver.root, 1, offset);
        }
        3 if random.below(4) == 0 => {
            driver.bar = PCI_MEMORY.start + (random.below(64) << 15);
            driver.set_config32(0x10, u32::try_from(driver.bar).unwrap());
            driver.set_config16(0x04, 6);
        }
        4 if random.below(4) == 0 => {
            driver.bar = PCI_MEMORY.start;
            driver.set_config32(0x10, u32::try_from(driver.bar).unwrap());
            driver.set_config16(0x04, 6);
            driver.start(VERSION_1);
        }
        _ => {
            let page = random.below(7) << 12;
            let offset = driver.bar - PCI_MEMORY.start + page + random.below(64);
            poke(random, &mut driver.root, 1, offset);
        }
    }
}

fn random_offset(random: &mut Random, limit: u64) -> u64 {
    let any = random.below(limit);
    if random.below(2) == 0 { any & !3 } else { any }
}
