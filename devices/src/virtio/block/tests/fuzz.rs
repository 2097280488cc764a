//! Random chains, seeded. Whatever a driver offers, the device answers each chain or asks for a
//! reset; it never panics, hangs, or holds more requests than the queue has descriptors.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::random_test::Random;
use crate::virtio::driver_mock::{HOLE, INDIRECT, MEMORY_END, NEXT, WRITE};

const ROUNDS: u64 = 5000;
/// Random descriptors lie from here on, and end long before the rings of the second queue.
const AREA: u64 = 0x10_0000;
/// Where headers and tables are likely to be.
const SLOT_BYTES: u64 = 0x1000;
const SLOTS: u64 = 64;
/// How many bytes may be read into the rings of the first queue.
const REACH_BYTES: u32 = 700;

#[test]
fn random_chains_are_answered_or_break_the_device() {
    let mut rig = Rig::with_queues(2, PROPERTIES);
    // The rings of the first queue are within the reach of random descriptors in some rounds.
    let rings = rig.driver.queues[0].descriptors..rig.driver.queues[0].used + 0x1000 - 700;
    let mut broken = 0;
    for seed in 0..ROUNDS {
        let mut random = Random::new(seed);
        let reach_rings = random.below(4) == 0;
        let features = rig.device.features();
        rig.activate(features & !random.below(u64::MAX));
        let needs_reset = rig.driver.notifier.needs_reset();
        for index in 0..16 {
            let right = random.below(8) != 0;
            let descriptor = if right {
                part(index, &mut random)
            } else {
                any(&mut random)
            };
            rig.driver.queues[0].set_descriptor(index, descriptor);
        }
        fill_area(&rig, &mut random);
        if reach_rings {
            let address = rings.start + random.below(rings.end - rings.start);
            let flags = [NEXT | WRITE, WRITE][usize::from(random.below(2) == 0)];
            rig.driver.queues[0].set_descriptor(1, Descriptor::new(address, REACH_BYTES, flags, 2));
        }
        let honest = offer(&mut rig, &mut random).filter(|_| !reach_rings);
        rig.driver.queues[0].kick();
        let survived = settle(&mut rig, honest, needs_reset);
        rig.reset();
        assert!(rig.disk.in_flight_max() <= 16 + 1, "seed {seed}");
        if let (Some(offered), true) = (honest, survived) {
            assert_eq!(rig.driver.queues[0].used_index(), offered, "seed {seed}");
        }
        let gave_up = rig.driver.notifier.needs_reset() > needs_reset;
        assert!(survived || gave_up, "seed {seed}");
        broken += u64::from(gave_up);
        rig.disk.take_done();
    }
    let counted = rig.device.handle().statistics();
    println!("{broken} of {ROUNDS} rounds broke the device: {counted:?}");
    for (what, count) in [
        ("bytes read", counted.read_bytes),
        ("bytes written", counted.written_bytes),
        ("discards", counted.discards),
        ("zeroed ranges", counted.write_zeroes),
        ("serial numbers", counted.get_ids),
        ("errors", counted.errors),
    ] {
        assert!(count > 20, "random chains never get as far as {what}");
    }
    assert!(
        (ROUNDS / 10..ROUNDS * 9 / 10).contains(&broken),
        "the rounds are all alike"
    );
}

/// Offers some chains and says how many, unless it lied about that.
fn offer(rig: &mut Rig, random: &mut Random) -> Option<u16> {
    let offered = 1 + random.below(4) * random.below(5);
    for _ in 0..offered {
        let head = match random.below(200) {
            0 => random.below(0x1_0000),
            1..10 => random.below(16),
            _ => 3 * random.below(5),
        };
        rig.driver.queues[0].offer(u16::try_from(head).unwrap());
    }
    if random.below(50) == 0 {
        let index = random.below(0x1_0000);
        rig.driver.queues[0].set_available_index(u16::try_from(index).unwrap());
        return None;
    }
    Some(u16::try_from(offered).unwrap())
}

/// Has honest requests on the second queue answered until the first has been served as well, and
/// says whether the device did so without giving up.
fn settle(rig: &mut Rig, honest: Option<u16>, needs_reset: u64) -> bool {
    const HEADER: u64 = MEMORY_END - 0x2000;
    const STATUS: u64 = MEMORY_END - 0x1000;
    let header = Header {
        kind: VIRTIO_BLK_T_FLUSH.into(),
        reserved: 0.into(),
        sector: 0.into(),
    };
    rig.driver
        .memory
        .write_slice(header.as_bytes(), GuestAddress(HEADER))
        .unwrap();
    for _ in 0..1000 {
        let queue = &mut rig.driver.queues[1];
        queue.set_used_event(queue.used_index());
        rig.driver
            .send(1, &[readable(HEADER, 16), writable(STATUS, 1)]);
        let queue = &mut rig.driver.queues[1];
        let answered = rig.driver.notifier.wait(|gave_up| {
            let answered = queue.take_used().map(|_| true);
            answered.or((gave_up > needs_reset).then_some(false))
        });
        let served = rig.driver.queues[0].used_index();
        if !answered || honest.is_none_or(|offered| served == offered) {
            return answered;
        }
    }
    panic!("the device does not serve its first queue");
}

/// A part of a request that is right: a header, data, or a status.
fn part(index: u16, random: &mut Random) -> Descriptor {
    let address = AREA + SLOT_BYTES * random.below(SLOTS);
    let sectors = u32::try_from(512 * random.below(4)).unwrap();
    let flags = if random.below(2) == 0 { WRITE } else { 0 };
    let (len, flags) = match (index % 3, random.below(4)) {
        (0, _) | (1, 0) => (16, NEXT),
        (1, 1) => (20, NEXT | flags),
        (1, _) => (sectors, NEXT | flags),
        _ => (1, WRITE),
    };
    Descriptor::new(address, len, flags, index + 1)
}

/// A descriptor of any kind, some of them more telling than others.
fn any(random: &mut Random) -> Descriptor {
    let address = match random.below(200) {
        0 => HOLE.start - random.below(600),
        1 => u64::MAX - random.below(600),
        2 => MEMORY_END,
        3..20 => AREA + random.below(SLOTS * SLOT_BYTES),
        _ => AREA + SLOT_BYTES * random.below(SLOTS),
    };
    let len = match random.below(200) {
        0 => 0xffff_ffff - random.below(600),
        1 => 8 << 20,
        2..20 => random.below(0x1_0000),
        20..25 => 0,
        _ => [1, 15, 16, 17, 48, 512, 513, 1024, 4096][usize::try_from(random.below(9)).unwrap()],
    };
    let mut flags = 0;
    if random.below(3) != 0 {
        flags |= WRITE;
    }
    if random.below(2) == 0 {
        flags |= NEXT;
    }
    if random.below(20) == 0 {
        flags |= INDIRECT;
    }
    let far = random.below(50) == 0;
    let next = random.below(if far { 0x1_0000 } else { 16 });
    Descriptor::new(
        address,
        u32::try_from(len).unwrap(),
        flags,
        u16::try_from(next).unwrap(),
    )
}

/// Fills a part of memory with what headers, ranges and indirect tables may look like.
fn fill_area(rig: &Rig, random: &mut Random) {
    for slot in 0..SLOTS {
        let at = GuestAddress(AREA + SLOT_BYTES * slot);
        let shift = if random.below(4) == 0 {
            random.below(54)
        } else {
            0
        };
        let header = Header {
            kind: u32::try_from(random.below(16)).unwrap().into(),
            reserved: 0.into(),
            sector: (random.below(2100) << shift).into(),
        };
        if random.below(6) == 0 {
            rig.driver.memory.write_obj(any(random), at).unwrap();
        } else {
            rig.driver
                .memory
                .write_slice(header.as_bytes(), at)
                .unwrap();
        }
    }
}
