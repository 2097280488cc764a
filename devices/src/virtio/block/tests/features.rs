//! What each feature promises to a driver that keeps the rules.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_SECURE_ERASE, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP as UNMAP,
};

use super::fake_disk::Done;
use super::*;
use crate::virtio::driver_mock::SEAM;

const WRITEBACK_OFFSET: u64 = 32;

fn number(rig: &Rig, offset: u64, len: usize) -> u64 {
    let mut bytes = [0; 8];
    rig.device.read_config(offset, &mut bytes[..len]);
    u64::from_le_bytes(bytes)
}

#[test]
fn reads_what_was_written() {
    let mut rig = Rig::new();
    let bytes = pattern(3, 4096);
    assert_eq!(rig.write(5, &bytes), OK);
    assert_eq!(rig.disk.content(5 * 512, 4096), bytes);
    assert_eq!(rig.read(5, 4096), (OK, bytes));
    let done = [
        Done::Write {
            offset: 2560,
            len: 4096,
        },
        Done::Read {
            offset: 2560,
            len: 4096,
        },
    ];
    assert_eq!(rig.disk.take_done(), done);
}

#[test]
fn last_sector_is_part_of_the_disk() {
    let mut rig = Rig::new();
    assert_eq!(rig.write(2047, &pattern(1, 512)), OK);
    assert_eq!(rig.read(2047, 512), (OK, pattern(1, 512)));
}

/// Virtio 1.2 section 2.7.4.1: a device must not assume how a request is cut into descriptors.
#[test]
fn pieces_may_be_cut_anywhere() {
    let mut rig = Rig::new();
    let bytes = pattern(9, 1024);
    let out = rig.prepare(VIRTIO_BLK_T_OUT, 1, &[]);
    let header = out.parts[0].address;
    // The last piece of the header and the first of the data are one.
    let joined = [rig.driver.bytes(header + 7, 9), bytes[..100].to_vec()].concat();
    let joined = rig.driver.place(&joined);
    let rest = rig.driver.place(&bytes[100..]);
    rig.driver.send(
        0,
        &[
            readable(header, 3),
            readable(header + 3, 4),
            readable(joined, 109),
            readable(rest, 1),
            readable(rest + 1, 923),
            out.parts[1],
        ],
    );
    assert_eq!(rig.driver.wait_used(0).len, 1);
    assert_eq!(rig.status(&out), OK);
    assert_eq!(rig.disk.content(512, 1024), bytes);

    // The status is the last byte of the last piece of data.
    let input = rig.prepare(VIRTIO_BLK_T_IN, 1, &[]);
    let target = rig.driver.place(&vec![UNANSWERED; 1025]);
    rig.driver.send(
        0,
        &[
            input.parts[0],
            writable(target, 700),
            writable(target + 700, 325),
        ],
    );
    assert_eq!(rig.driver.wait_used(0).len, 1025);
    assert_eq!(rig.driver.bytes(target, 1025), [bytes, vec![OK]].concat());
}

#[test]
fn data_may_cross_from_one_memory_region_to_the_next() {
    let mut rig = Rig::new();
    let bytes = pattern(4, 8192);
    assert_eq!(rig.write(0, &bytes), OK);
    let target = writable(SEAM - 1000, 8192);
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, &[target]), (OK, 8193));
    assert_eq!(rig.driver.bytes(target.address, 8192), bytes);
}

#[test]
fn indirect_tables_work_like_direct_ones() {
    let mut rig = Rig::new();
    let bytes = pattern(8, 20 * 512);
    let data = rig.driver.place(&bytes);
    let pieces: Vec<_> = (0..20).map(|at| readable(data + at * 512, 512)).collect();
    let sent = rig.prepare(VIRTIO_BLK_T_OUT, 3, &pieces);
    let table = rig.driver.allocate(16 * sent.parts.len());
    rig.driver.queues[0].add_indirect(table, &sent.parts);
    rig.driver.queues[0].kick();
    rig.driver.wait_used(0);
    assert_eq!(rig.status(&sent), OK);
    assert_eq!(rig.disk.content(3 * 512, bytes.len()), bytes);
}

#[test]
fn empty_data_is_no_request_to_the_disk() {
    let mut rig = Rig::new();
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, &[]), (OK, 1));
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, &[]), (OK, 1));
    assert_eq!(rig.disk.take_done(), []);
}

#[test]
fn configuration_tells_size_and_limits() {
    let rig = Rig::with_queues(3, PROPERTIES);
    assert_eq!(number(&rig, 0, 8), 2048, "capacity");
    assert_eq!(number(&rig, 8, 4), 256 << 10, "size_max");
    assert_eq!(
        number(&rig, 12, 4),
        14,
        "seg_max leaves room for header and status"
    );
    assert_eq!(number(&rig, 20, 4), 512, "blk_size");
    assert_eq!(number(&rig, 24, 1), 3, "physical_block_exp");
    assert_eq!(number(&rig, 26, 2), 8, "min_io_size");
    assert_eq!(number(&rig, 28, 4), 128, "opt_io_size");
    assert_eq!(number(&rig, WRITEBACK_OFFSET, 1), 1, "writeback");
    assert_eq!(number(&rig, 34, 2), 3, "num_queues");
    assert_eq!(number(&rig, 44, 4), 8, "discard_sector_alignment");
    assert_eq!(number(&rig, 52, 4), 1, "max_write_zeroes_seg");
    assert_eq!(number(&rig, 56, 1), 1, "write_zeroes_may_unmap");
    assert_eq!(number(&rig, 58, 8), 0, "past the end");
    assert_eq!(number(&rig, u64::MAX, 8), 0, "far past the end");
    assert_eq!(number(&rig, 1, 2), 8, "from the middle of a field");
}

#[test]
fn read_only_disk_refuses_every_change() {
    let mut rig = Rig::with_queues(
        1,
        disk::Properties {
            read_only: true,
            ..PROPERTIES
        },
    );
    let features = usual_features(&rig.device);
    let has = |feature: u32| features & (1 << feature) != 0;
    assert!(has(VIRTIO_BLK_F_RO));
    assert!(!has(VIRTIO_BLK_F_DISCARD) && !has(VIRTIO_BLK_F_WRITE_ZEROES));
    assert!(!has(VIRTIO_BLK_F_CONFIG_WCE));
    rig.activate(features);
    assert_eq!(rig.write(0, &pattern(1, 512)), IO_ERROR);
    assert_eq!(rig.clear(VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)]), UNSUPPORTED);
    assert_eq!(
        rig.clear(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 0)]),
        UNSUPPORTED
    );
    assert_eq!(rig.disk.take_done(), []);
    assert_eq!(rig.read(0, 512), (OK, vec![0; 512]));
    assert_eq!(rig.flush(), OK);
}

#[test]
fn flush_reaches_the_disk_and_writes_alone_do_not() {
    let mut rig = Rig::new();
    rig.write(0, &pattern(1, 512));
    assert_eq!(
        rig.disk.take_done(),
        [Done::Write {
            offset: 0,
            len: 512
        }]
    );
    assert_eq!(rig.flush(), OK);
    assert_eq!(rig.disk.take_done(), [Done::Flush]);
}

/// Virtio 1.2 section 5.2.6.2: a driver without FLUSH expects each write to be durable.
#[test]
fn without_flush_each_write_is_durable_before_it_completes() {
    let mut rig = Rig::with_queues(1, PROPERTIES);
    let without = 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_CONFIG_WCE;
    let features = usual_features(&rig.device) & !without;
    rig.activate(features);
    assert_eq!(rig.write(0, &pattern(1, 512)), OK);
    assert_eq!(rig.clear(VIRTIO_BLK_T_WRITE_ZEROES, &[(8, 8, 0)]), OK);
    rig.read(0, 512);
    let done = [
        Done::Write {
            offset: 0,
            len: 512,
        },
        Done::Flush,
        Done::WriteZeroes {
            offset: 4096,
            len: 4096,
            unmap: false,
        },
        Done::Flush,
        Done::Read {
            offset: 0,
            len: 512,
        },
    ];
    assert_eq!(rig.disk.take_done(), done);
}

#[test]
fn driver_switches_the_cache_mode() {
    let mut rig = Rig::new();
    rig.device.write_config(WRITEBACK_OFFSET, &[0]);
    assert_eq!(number(&rig, WRITEBACK_OFFSET, 1), 0);
    rig.write(0, &pattern(1, 512));
    assert_eq!(
        rig.disk.take_done(),
        [
            Done::Write {
                offset: 0,
                len: 512
            },
            Done::Flush
        ]
    );
    rig.device.write_config(WRITEBACK_OFFSET, &[1]);
    rig.write(0, &pattern(2, 512));
    assert_eq!(
        rig.disk.take_done(),
        [Done::Write {
            offset: 0,
            len: 512
        }]
    );
    rig.device.write_config(WRITEBACK_OFFSET, &[0]);
    rig.reset();
    assert_eq!(
        number(&rig, WRITEBACK_OFFSET, 1),
        1,
        "a reset forgets the mode"
    );
}

#[test]
fn mode_chosen_before_the_start_holds() {
    let mut rig = Rig::with_queues(1, PROPERTIES);
    rig.device.write_config(WRITEBACK_OFFSET, &[0]);
    let features = usual_features(&rig.device);
    rig.activate(features);
    assert_eq!(number(&rig, WRITEBACK_OFFSET, 1), 0);
    rig.write(0, &pattern(1, 512));
    assert_eq!(
        rig.disk.take_done(),
        [
            Done::Write {
                offset: 0,
                len: 512
            },
            Done::Flush
        ]
    );
}

/// Virtio 1.2 section 5.2.5.2.
#[test]
fn without_flush_the_cache_mode_starts_as_write_through() {
    let mut rig = Rig::with_queues(1, PROPERTIES);
    let features = usual_features(&rig.device) & !(1 << VIRTIO_BLK_F_FLUSH);
    rig.activate(features);
    assert_eq!(number(&rig, WRITEBACK_OFFSET, 1), 0);
}

#[test]
fn cache_mode_is_fixed_where_it_was_not_negotiated() {
    let mut rig = Rig::with_queues(1, PROPERTIES);
    let features = usual_features(&rig.device) & !(1 << VIRTIO_BLK_F_CONFIG_WCE);
    rig.activate(features);
    rig.device.write_config(WRITEBACK_OFFSET, &[0]);
    assert_eq!(number(&rig, WRITEBACK_OFFSET, 1), 1);
    rig.reset();
    rig.device.write_config(0, &[9]);
    rig.device.write_config(WRITEBACK_OFFSET, &[0, 0]);
    assert_eq!(number(&rig, 0, 8), 2048, "all else is read-only");
    assert_eq!(number(&rig, WRITEBACK_OFFSET, 1), 1);
}

#[test]
fn failed_write_is_not_flushed() {
    let mut rig = Rig::new();
    rig.device.write_config(WRITEBACK_OFFSET, &[0]);
    rig.disk.set_failing(true);
    assert_eq!(rig.write(0, &pattern(1, 512)), IO_ERROR);
    rig.disk.set_failing(false);
    assert_eq!(rig.disk.take_done(), []);
    assert_eq!(rig.write(0, &pattern(1, 512)), OK, "the device goes on");
}

#[test]
fn discards_and_zeroes_ranges() {
    let mut rig = Rig::new();
    rig.write(0, &pattern(1, 16384));
    rig.disk.take_done();
    assert_eq!(
        rig.clear(VIRTIO_BLK_T_DISCARD, &[(8, 8, 0), (24, 0, 0), (16, 16, 0)]),
        OK
    );
    for range in [(0, 1, 0), (4, 4, UNMAP)] {
        assert_eq!(rig.clear(VIRTIO_BLK_T_WRITE_ZEROES, &[range]), OK);
    }
    let done = [
        Done::Discard {
            offset: 4096,
            len: 4096,
        },
        Done::Discard {
            offset: 8192,
            len: 8192,
        },
        Done::WriteZeroes {
            offset: 0,
            len: 512,
            unmap: false,
        },
        Done::WriteZeroes {
            offset: 2048,
            len: 2048,
            unmap: true,
        },
    ];
    assert_eq!(rig.disk.take_done(), done);
    assert_eq!(rig.disk.content(0, 512), [0; 512]);
    assert_eq!(rig.disk.content(512, 512), pattern(1, 16384)[512..1024]);
}

#[test]
fn clearing_needs_its_feature() {
    let mut rig = Rig::with_queues(1, PROPERTIES);
    let features = usual_features(&rig.device) & !(1 << VIRTIO_BLK_F_DISCARD);
    rig.activate(features);
    assert_eq!(rig.clear(VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)]), UNSUPPORTED);
    assert_eq!(rig.clear(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 0)]), OK);
}

#[test]
fn serial_number_is_padded_and_cut() {
    let mut rig = Rig::new();
    let target = rig.driver.place(&[UNANSWERED; 64]);
    let full = b"disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(
        rig.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(target, 20)]),
        (OK, 21)
    );
    assert_eq!(rig.driver.bytes(target, 20), full);
    let target = rig.driver.place(&[UNANSWERED; 64]);
    assert_eq!(
        rig.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(target, 4)]),
        (OK, 5)
    );
    assert_eq!(rig.driver.bytes(target, 5), b"disk\xee");
    let target = rig.driver.place(&[UNANSWERED; 64]);
    assert_eq!(
        rig.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(target, 32)]),
        (OK, 20)
    );
    assert_eq!(
        rig.driver.bytes(target, 21),
        [full.as_slice(), &[UNANSWERED]].concat()
    );
    assert_eq!(super::super::padded(&"x".repeat(30)), [b'x'; 20]);
}

#[test]
fn unknown_requests_are_unsupported() {
    let mut rig = Rig::new();
    for kind in [
        2,
        3,
        5,
        10,
        VIRTIO_BLK_T_SECURE_ERASE,
        15,
        16,
        24,
        0x8000_0000,
        u32::MAX,
    ] {
        let data = writable(rig.driver.allocate(512), 512);
        assert_eq!(
            rig.request(kind, 0, &[data]),
            (UNSUPPORTED, 0),
            "type {kind}"
        );
    }
    assert_eq!(rig.disk.take_done(), []);
}

#[test]
fn disk_errors_are_answered_and_the_device_goes_on() {
    let mut rig = Rig::new();
    rig.disk.set_failing(true);
    assert_eq!(rig.write(0, &pattern(1, 512)), IO_ERROR);
    assert_eq!(rig.flush(), IO_ERROR);
    let target = writable(rig.driver.allocate(512), 512);
    // No byte of the data was written, so that the used length does not reach the status.
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, &[target]), (IO_ERROR, 0));
    rig.disk.set_failing(false);
    assert_eq!(rig.flush(), OK);
    assert_eq!(rig.device.handle().statistics().errors, 3);
}

/// Virtio 1.2 section 2.7.7.2: with `EVENT_IDX` the driver says of which
/// answer it wants to hear.
#[test]
fn event_index_saves_interrupts() {
    let mut rig = Rig::with_queues(1, PROPERTIES);
    let features = rig.device.features();
    rig.activate(features);
    rig.disk.shut();
    rig.driver.queues[0].set_used_event(3);
    for _ in 0..4 {
        let sent = rig.prepare(VIRTIO_BLK_T_FLUSH, 0, &[]);
        rig.driver.send(0, &sent.parts);
    }
    rig.disk.wait_in_flight(4);
    rig.disk.open();
    let notifier = Arc::clone(&rig.driver.notifier);
    notifier.wait(|_| (rig.driver.queues[0].used_index() == 4).then_some(()));
    rig.reset();
    assert_eq!(notifier.interrupts(0), 1);
    let statistics = rig.device.handle().statistics();
    assert_eq!((statistics.interrupts, statistics.interrupts_saved), (1, 3));
    assert_eq!(
        rig.driver.queues[0].available_event(),
        4,
        "the doorbell is armed for the next"
    );
}

/// Virtio 1.2 sections 2.7.7 and 2.7.10, without `EVENT_IDX`.
#[test]
fn flags_save_interrupts_and_doorbells() {
    let mut rig = Rig::new();
    rig.disk.shut();
    rig.driver.queues[0].set_no_interrupt(true);
    let silent = rig.prepare(VIRTIO_BLK_T_FLUSH, 0, &[]);
    rig.driver.send(0, &silent.parts);
    rig.disk.wait_in_flight(1);
    rig.disk.open();
    rig.reset();
    assert_eq!(rig.status(&silent), OK);
    assert_eq!(rig.used(0).len(), 1);
    assert_eq!(rig.driver.notifier.interrupts(0), 0);
    assert_eq!(rig.device.handle().statistics().interrupts_saved, 1);
    assert!(
        !rig.driver.queues[0].no_notify(),
        "an idle device wants doorbells"
    );
}

#[test]
fn every_queue_is_served_and_answers_for_itself() {
    let mut rig = Rig::with_queues(4, PROPERTIES);
    let features = usual_features(&rig.device);
    assert_ne!(features & (1 << VIRTIO_BLK_F_MQ), 0);
    assert_eq!(rig.device.queue_sizes(), [16; 4]);
    rig.activate(features);
    let bytes: Vec<_> = (0..4).map(|queue| pattern(40 + queue, 512)).collect();
    for (queue, bytes) in bytes.iter().enumerate() {
        let data = readable(rig.driver.place(bytes), 512);
        let sent = rig.prepare(VIRTIO_BLK_T_OUT, queue as u64, &[data]);
        rig.driver.send(queue, &sent.parts);
    }
    for queue in 0..4 {
        rig.driver.wait_used(queue);
    }
    // An interrupt comes after what it tells of; once the device has stopped, all have come.
    rig.reset();
    assert_eq!(
        [0, 1, 2, 3].map(|queue| rig.driver.notifier.interrupts(queue)),
        [1; 4]
    );
    assert_eq!(rig.disk.content(0, 2048), bytes.concat());
}

#[test]
fn queues_that_the_driver_left_out_are_not_missed() {
    let mut rig = Rig::with_queues(3, PROPERTIES);
    let mut activation = rig.driver.activation(rig.device.features());
    activation.queues.drain(..2);
    rig.device.activate(activation).unwrap();
    let sent = rig.prepare(VIRTIO_BLK_T_FLUSH, 0, &[]);
    rig.driver.send(2, &sent.parts);
    rig.driver.wait_used(2);
    assert_eq!(rig.status(&sent), OK);
}

#[test]
fn single_queue_offers_no_multiqueue() {
    let rig = Rig::with_queues(1, PROPERTIES);
    assert_eq!(rig.device.features() & (1 << VIRTIO_BLK_F_MQ), 0);
}

#[test]
fn requests_are_counted_by_type() {
    let mut rig = Rig::new();
    rig.write(0, &pattern(1, 1024));
    rig.read(0, 512);
    rig.flush();
    rig.clear(VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)]);
    rig.clear(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 0)]);
    rig.request(VIRTIO_BLK_T_GET_ID, 0, &[]);
    rig.request(99, 0, &[]);
    rig.reset();
    let counted = rig.device.handle().statistics();
    assert_eq!((counted.writes, counted.written_bytes), (1, 1024));
    assert_eq!((counted.reads, counted.read_bytes), (1, 512));
    assert_eq!(
        (counted.flushes, counted.discards, counted.write_zeroes),
        (1, 1, 1)
    );
    assert_eq!((counted.get_ids, counted.errors), (1, 1));
    assert_eq!((counted.interrupts, counted.interrupts_saved), (7, 0));
    assert!(
        (1..=8).contains(&counted.doorbells),
        "{} doorbells",
        counted.doorbells
    );
    assert_eq!(counted.disk, None, "not known yet");
}
