//! A driver that breaks the rules gets an error, or a device that needs a reset.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP as UNMAP,
};
use virtio_queue::QueueT;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::driver_mock::{HOLE, INDIRECT, MEMORY_END, NEXT, WRITE};

/// The device must need a reset, touch no disk, and work again after one.
fn assert_breaks(what: &str, offend: impl FnOnce(&mut Rig)) {
    let mut rig = Rig::new();
    offend(&mut rig);
    rig.driver.queues[0].kick();
    rig.driver.notifier.wait_needs_reset();
    assert_eq!(rig.disk.take_done(), [], "{what}");
    // What comes now is not served.
    let late = rig.prepare(VIRTIO_BLK_T_FLUSH, 0, &[]);
    rig.driver.send(0, &late.parts);
    rig.reset();
    assert_eq!(rig.status(&late), UNANSWERED, "{what}");
    assert_eq!(rig.driver.notifier.needs_reset(), 1, "{what}");
    let features = usual_features(&rig.device);
    rig.activate(features);
    assert_eq!(rig.flush(), OK, "{what}");
}

#[test]
fn data_that_is_no_run_of_sectors_of_the_disk_fails() {
    let mut rig = Rig::new();
    let data = rig.driver.allocate(8192);
    for (sector, len) in [
        (0, 1),
        (0, 511),
        (0, 513),
        (2048, 512),
        (2047, 1024),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (u64::MAX / 512 + 1, 512),
        (1 << 55, 512),
    ] {
        let what = format!("{len} bytes at sector {sector}");
        let written = rig.request(VIRTIO_BLK_T_OUT, sector, &[readable(data, len)]);
        assert_eq!(written, (IO_ERROR, 1), "writing {what}");
        let read = rig.request(VIRTIO_BLK_T_IN, sector, &[writable(data, len)]);
        assert_eq!(read, (IO_ERROR, 0), "reading {what}");
    }
    assert_eq!(rig.disk.take_done(), []);
}

#[test]
fn huge_requests_fail_before_they_cost_anything() {
    let large = disk::Properties {
        size_bytes: 1 << 40,
        ..PROPERTIES
    };
    let mut rig = Rig::with_queues(1, large);
    let features = usual_features(&rig.device);
    rig.activate(features);
    let part = writable(HOLE.end, 7 << 20);
    assert_eq!(part.address + u64::from(part.len), MEMORY_END);
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, &[part; 10]), (IO_ERROR, 0));
    assert_eq!(rig.disk.in_flight_max(), 0);
}

#[test]
fn short_header_fails() {
    let mut rig = Rig::new();
    let sent = rig.prepare(VIRTIO_BLK_T_FLUSH, 0, &[]);
    let header = sent.parts[0].address;
    rig.driver.send(0, &[readable(header, 15), sent.parts[1]]);
    rig.driver.wait_used(0);
    assert_eq!(rig.status(&sent), IO_ERROR);
    let answer = rig.driver.place(&[UNANSWERED]);
    rig.driver.send(0, &[writable(answer, 1)]);
    rig.driver.wait_used(0);
    assert_eq!(rig.driver.bytes(answer, 1), [IO_ERROR]);
    assert_eq!(rig.disk.take_done(), []);
}

#[test]
fn bad_ranges_are_refused_before_any_is_touched() {
    let mut rig = Rig::new();
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        for (ranges, status) in [
            (vec![], IO_ERROR),
            (vec![(0, 8, 0); 65], IO_ERROR),
            (vec![(2048, 1, 0)], IO_ERROR),
            (vec![(u64::MAX, 1, 0)], IO_ERROR),
            (vec![(0, u32::MAX, 0)], IO_ERROR),
            (vec![(0, 8, 2)], UNSUPPORTED),
            (vec![(0, 8, 1 << 31)], UNSUPPORTED),
        ] {
            assert_eq!(rig.clear(kind, &ranges), status, "type {kind}, {ranges:?}");
        }
        let odd = readable(rig.driver.allocate(40), 40);
        assert_eq!(rig.request(kind, 0, &[odd]).0, IO_ERROR, "half a range");
    }
    assert_eq!(
        rig.clear(VIRTIO_BLK_T_DISCARD, &[(0, 8, UNMAP)]),
        UNSUPPORTED
    );
    for (second, status) in [((2048, 1, 0), IO_ERROR), ((0, 8, 2), UNSUPPORTED)] {
        let ranges = [(0, 8, 0), second];
        assert_eq!(rig.clear(VIRTIO_BLK_T_DISCARD, &ranges), status);
    }
    assert_eq!(
        rig.clear(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 1, 0); 2]),
        IO_ERROR,
        "more than promised"
    );
    assert_eq!(rig.disk.take_done(), []);
    assert_eq!(
        rig.clear(VIRTIO_BLK_T_DISCARD, &[(0, 1, 0); 64]),
        OK,
        "as many as promised"
    );
}

#[test]
fn zeroing_more_than_promised_fails() {
    let large = disk::Properties {
        size_bytes: 1 << 40,
        ..PROPERTIES
    };
    let mut rig = Rig::with_queues(1, large);
    let features = usual_features(&rig.device);
    rig.activate(features);
    assert_eq!(
        rig.clear(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, (1 << 17) + 1, 0)]),
        IO_ERROR
    );
    assert_eq!(
        rig.clear(VIRTIO_BLK_T_DISCARD, &[(0, 1 << 22, 0)]),
        IO_ERROR
    );
    assert_eq!(rig.disk.take_done(), []);
}

#[test]
fn request_without_room_for_an_answer_breaks() {
    assert_breaks("no writable byte", |rig| {
        let header = rig.driver.allocate(16);
        rig.driver.queues[0].add(&[readable(header, 16)]);
    });
    assert_breaks("an empty writable descriptor", |rig| {
        let header = rig.driver.allocate(16);
        rig.driver.queues[0].add(&[readable(header, 16), writable(header, 0)]);
    });
}

#[test]
fn chains_without_an_end_break() {
    assert_breaks("a descriptor that follows itself", |rig| {
        let queue = &mut rig.driver.queues[0];
        queue.set_descriptor(0, Descriptor::new(0x1000, 16, NEXT, 0));
        queue.offer(0);
    });
    assert_breaks("a loop of two", |rig| {
        let queue = &mut rig.driver.queues[0];
        queue.set_descriptor(3, Descriptor::new(0x1000, 16, NEXT | WRITE, 4));
        queue.set_descriptor(4, Descriptor::new(0x1000, 16, NEXT | WRITE, 3));
        queue.offer(3);
    });
    assert_breaks("a next descriptor past the table", |rig| {
        let queue = &mut rig.driver.queues[0];
        queue.set_descriptor(0, Descriptor::new(0x1000, 16, NEXT, 16));
        queue.offer(0);
    });
    assert_breaks("a head past the table", |rig| {
        rig.driver.queues[0].offer(16);
    });
    assert_breaks("the last head of all", |rig| {
        rig.driver.queues[0].offer(u16::MAX);
    });
}

#[test]
fn indirect_tables_that_are_none_break() {
    for (what, address, len) in [
        ("no table", 0x1000, 0),
        ("half a descriptor", 0x1000, 24),
        ("a table without memory", HOLE.start, 32),
        (
            "a table past the end of the address space",
            u64::MAX - 15,
            32,
        ),
        ("a table of 4 GiB", 0x1000, 0xffff_fff0),
    ] {
        assert_breaks(what, |rig| {
            let queue = &mut rig.driver.queues[0];
            queue.set_descriptor(0, Descriptor::new(address, len, INDIRECT, 0));
            queue.offer(0);
        });
    }
    assert_breaks("a table in a table", |rig| {
        let inner = Descriptor::new(0x1000, 16, INDIRECT, 0);
        let table = rig.driver.allocate(16);
        rig.driver
            .memory
            .write_obj(inner, GuestAddress(table))
            .unwrap();
        rig.driver.queues[0].set_descriptor(0, Descriptor::new(table, 16, INDIRECT, 0));
        rig.driver.queues[0].offer(0);
    });
    assert_breaks("a table that loops", |rig| {
        let looping = Descriptor::new(0x1000, 16, NEXT, 0);
        let table = rig.driver.allocate(32);
        rig.driver
            .memory
            .write_obj(looping, GuestAddress(table))
            .unwrap();
        rig.driver.queues[0].set_descriptor(0, Descriptor::new(table, 32, INDIRECT, 0));
        rig.driver.queues[0].offer(0);
    });
    assert_breaks("more descriptors than any queue has", |rig| {
        let header = rig.driver.allocate(16);
        let table = rig.driver.allocate(16 * 1100);
        let mut parts = vec![readable(header, 1); 1099];
        parts.push(writable(header, 1));
        rig.driver.queues[0].add_indirect(table, &parts);
    });
}

#[test]
fn pieces_outside_memory_break() {
    for (what, address, len) in [
        ("in the hole", HOLE.start, 512),
        ("into the hole", HOLE.start - 511, 512),
        ("past the end", MEMORY_END, 512),
        ("across the end", MEMORY_END - 1, 512),
        ("across the end of the address space", u64::MAX - 10, 512),
        ("as long as can be", 0x1000, 0xffff_ffff),
    ] {
        for part in [readable(address, len), writable(address, len)] {
            assert_breaks(what, |rig| {
                let sent = rig.prepare(VIRTIO_BLK_T_OUT, 0, &[part]);
                rig.driver.queues[0].add(&sent.parts);
            });
        }
    }
}

#[test]
fn readable_piece_after_a_writable_one_breaks() {
    assert_breaks("wrong order", |rig| {
        let data = rig.driver.allocate(512);
        let sent = rig.prepare(
            VIRTIO_BLK_T_IN,
            0,
            &[writable(data, 512), readable(data, 512)],
        );
        rig.driver.queues[0].add(&sent.parts);
    });
}

#[test]
fn available_index_that_jumps_breaks() {
    assert_breaks("forward", |rig| {
        rig.driver.queues[0].set_available_index(17);
    });
    assert_breaks("back", |rig| {
        rig.driver.queues[0].set_available_index(u16::MAX);
    });
}

/// A driver that offers a chain again and again before it is answered would have us hold ever more
/// requests.
#[test]
fn more_requests_than_the_queue_holds_break() {
    let mut rig = Rig::new();
    rig.disk.shut();
    let sent = rig.prepare(VIRTIO_BLK_T_FLUSH, 0, &[]);
    let head = rig.driver.send(0, &sent.parts);
    for _ in 1..16 {
        rig.driver.queues[0].offer(head);
    }
    rig.driver.queues[0].kick();
    rig.disk.wait_in_flight(16);
    assert_eq!(
        rig.driver.notifier.needs_reset(),
        0,
        "a full queue is no offence"
    );
    rig.driver.queues[0].offer(head);
    rig.driver.queues[0].kick();
    rig.driver.notifier.wait_needs_reset();
    rig.disk.open();
    rig.reset();
    assert_eq!(rig.disk.in_flight_max(), 16);
    assert_eq!(rig.used(0).len(), 16, "what was taken is answered");
}

#[test]
fn broken_queue_stops_the_whole_device() {
    let mut rig = Rig::with_queues(2, PROPERTIES);
    let features = usual_features(&rig.device);
    rig.activate(features);
    rig.driver.queues[1].offer(99);
    rig.driver.queues[1].kick();
    rig.driver.notifier.wait_needs_reset();
    let sent = rig.prepare(VIRTIO_BLK_T_FLUSH, 0, &[]);
    rig.driver.send(0, &sent.parts);
    rig.reset();
    assert_eq!(rig.disk.take_done(), []);
}

#[test]
fn rings_outside_memory_are_refused() {
    let mut rig = Rig::with_queues(1, PROPERTIES);
    for ring in 0..3 {
        let mut activation = rig.driver.activation(0);
        let rings = &mut activation.queues[0].rings;
        let (low, high) = (Some(u32::try_from(HOLE.end - 16).unwrap()), Some(0));
        match ring {
            0 => rings.set_desc_table_address(low, high),
            1 => rings.set_avail_ring_address(low, high),
            _ => rings.set_used_ring_address(low, high),
        }
        let error = rig.device.activate(activation).unwrap_err();
        let message = "blk0: cannot serve its queues: rings that cannot be accessed";
        assert_eq!(error.to_string(), message);
        rig.reset();
    }
    rig.activate(0);
    assert_eq!(rig.flush(), OK);
}
