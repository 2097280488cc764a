//! What drivers and devices agree on, the same on both transports.

use virtio_queue::QueueT;
use vm_memory::GuestAddress;

use super::drivers::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, HOLE, NEEDS_RESET, VERSION_1,
    on_each_transport,
};
use super::fake_device::{CONFIG_BYTES, FEATURES, QUEUE_SIZE};

const RUNNING: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
const EVENT_IDX: u64 = 1 << 29;

#[test]
fn a_driver_in_order_starts_the_device() {
    on_each_transport(|driver, device| {
        assert_eq!(driver.offered_features(), FEATURES | VERSION_1);
        assert_eq!(driver.offered(2), 0);
        driver.start(EVENT_IDX | VERSION_1);
        assert_eq!(driver.status(), RUNNING);
        let log = device.log();
        assert_eq!((log.activations, log.features), (1, EVENT_IDX | VERSION_1));
        let [queue] = log.queues.as_slice() else {
            panic!("one queue was enabled")
        };
        assert_eq!((queue.index, queue.rings.size()), (0, 16));
        assert_eq!(queue.rings.desc_table(), GuestAddress(0x1_0000).0);
        assert_eq!(queue.rings.avail_ring(), GuestAddress(0x1_1000).0);
        assert_eq!(queue.rings.used_ring(), GuestAddress(0x1_2000).0);
        assert!(queue.rings.event_idx_enabled());
    });
}

#[test]
fn status_bits_out_of_order_stay_clear() {
    on_each_transport(|driver, device| {
        for (value, expected) in [
            (DRIVER, 0),
            (DRIVER_OK, 0),
            (ACKNOWLEDGE | FEATURES_OK, ACKNOWLEDGE),
            (ACKNOWLEDGE | DRIVER | DRIVER_OK, ACKNOWLEDGE | DRIVER),
            // Bits cannot be taken back but by a reset.
            (ACKNOWLEDGE, ACKNOWLEDGE | DRIVER),
            (NEEDS_RESET, ACKNOWLEDGE | DRIVER),
        ] {
            driver.set_status(value);
            assert_eq!(driver.status(), expected, "after {value:#x}");
        }
        assert_eq!(device.log().activations, 0);
        driver.set_status(0);
        assert_eq!(driver.status(), 0);
    });
}

#[test]
fn unknown_features_are_refused() {
    on_each_transport(|driver, device| {
        // One that is not offered; none of the new interface; both right.
        for (features, expected) in [
            (VERSION_1 | 1 << 3, 0),
            (FEATURES, 0),
            (VERSION_1 | FEATURES, FEATURES_OK),
        ] {
            driver.set_status(0);
            driver.set_status(ACKNOWLEDGE | DRIVER);
            driver.accept_features(features);
            driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
            assert_eq!(driver.status() & FEATURES_OK, expected, "{features:#x}");
        }
        driver.set_status(0);
        driver.set_status(ACKNOWLEDGE | DRIVER);
        driver.accept_features(VERSION_1);
        driver.accept(7, 1);
        driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(driver.status() & FEATURES_OK, 0);
        assert_eq!(device.log().activations, 0);
    });
}

#[test]
fn features_are_fixed_once_agreed() {
    on_each_transport(|driver, device| {
        driver.set_status(ACKNOWLEDGE | DRIVER);
        driver.accept_features(VERSION_1);
        driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        driver.accept_features(VERSION_1 | FEATURES);
        driver.set_status(RUNNING);
        assert_eq!(device.log().features, VERSION_1);
    });
}

#[test]
fn reset_stops_the_device_and_forgets_the_driver() {
    on_each_transport(|driver, device| {
        driver.start(VERSION_1);
        driver.set_status(0);
        assert_eq!(driver.status(), 0);
        assert_eq!(device.log().resets, 1);
        assert!(!device.running());
        driver.select_queue(0);
        assert!(!driver.queue_enabled());
        assert_eq!(driver.queue_size_max(), QUEUE_SIZE);
        // Nothing is stopped twice.
        driver.set_status(0);
        assert_eq!(device.log().resets, 1);
        driver.start(VERSION_1 | FEATURES);
        let log = device.log();
        assert_eq!((log.activations, log.features), (2, VERSION_1 | FEATURES));
    });
}

#[test]
fn queues_that_do_not_exist_have_size_zero() {
    on_each_transport(|driver, _| {
        for (queue, size) in [(0, QUEUE_SIZE), (1, QUEUE_SIZE), (2, 0), (0xffff, 0)] {
            driver.select_queue(queue);
            assert_eq!(driver.queue_size_max(), size, "queue {queue}");
            driver.enable_queue();
        }
    });
}

#[test]
fn impossible_queues_break_the_device() {
    let cases: [(&str, u16, [u64; 3]); 9] = [
        ("not a power of two", 24, [0x1000, 0x2000, 0x3000]),
        ("empty", 0, [0x1000, 0x2000, 0x3000]),
        (
            "larger than offered",
            QUEUE_SIZE * 2,
            [0x1000, 0x2000, 0x3000],
        ),
        ("table not aligned", 16, [0x1008, 0x2000, 0x3000]),
        ("available ring not aligned", 16, [0x1000, 0x2001, 0x3000]),
        ("used ring not aligned", 16, [0x1000, 0x2000, 0x3002]),
        ("table runs into a hole", 16, [HOLE - 16, 0x2000, 0x3000]),
        ("used ring outside memory", 16, [0x1000, 0x2000, 1 << 40]),
        ("available ring wraps", 16, [0x1000, u64::MAX - 1, 0x3000]),
    ];
    for (what, size, [descriptors, available, used]) in cases {
        on_each_transport(|driver, device| {
            driver.set_status(ACKNOWLEDGE | DRIVER);
            driver.accept_features(VERSION_1);
            driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
            driver.select_queue(0);
            driver.set_queue_size(size);
            driver.set_queue_addresses(descriptors, available, used);
            driver.enable_queue();
            assert!(!driver.queue_enabled(), "{what}");
            assert_eq!(driver.status() & NEEDS_RESET, NEEDS_RESET, "{what}");
            driver.set_status(RUNNING);
            assert_eq!(device.log().activations, 0, "{what}");
            driver.start(VERSION_1);
            assert_eq!(driver.status(), RUNNING, "{what}");
        });
    }
}

#[test]
fn an_enabled_queue_cannot_be_moved() {
    on_each_transport(|driver, device| {
        driver.set_status(ACKNOWLEDGE | DRIVER);
        driver.accept_features(VERSION_1);
        driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        driver.set_up_queue(1);
        driver.set_queue_size(32);
        driver.set_queue_addresses(1 << 40, 1 << 40, 1 << 40);
        driver.set_status(RUNNING);
        let log = device.log();
        let [queue] = log.queues.as_slice() else {
            panic!("one queue was enabled")
        };
        assert_eq!((queue.index, queue.rings.size()), (1, 16));
        assert_eq!(queue.rings.desc_table(), 0x2_0000);
    });
}

#[test]
fn queues_of_a_running_device_are_fixed() {
    on_each_transport(|driver, device| {
        driver.start(VERSION_1);
        driver.set_up_queue(1);
        assert!(!driver.queue_enabled());
        assert_eq!(device.log().queues.len(), 1);
        assert_eq!(driver.status(), RUNNING);
    });
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    on_each_transport(|driver, device| {
        device.log().refuse_activation = true;
        driver.start(VERSION_1);
        assert_eq!(driver.status(), RUNNING | NEEDS_RESET);
        device.log().refuse_activation = false;
        driver.start(VERSION_1);
        assert_eq!(driver.status(), RUNNING);
    });
}

#[test]
fn a_device_that_gives_up_says_so_until_reset() {
    on_each_transport(|driver, device| {
        driver.start(VERSION_1);
        device.notifier().needs_reset();
        assert_eq!(driver.status(), RUNNING | NEEDS_RESET);
        driver.set_status(RUNNING);
        assert_eq!(driver.status(), RUNNING | NEEDS_RESET);
        driver.set_status(0);
        assert_eq!(driver.status(), 0);
    });
}

#[test]
fn a_driver_that_failed_goes_no_further() {
    on_each_transport(|driver, device| {
        driver.set_status(ACKNOWLEDGE | FAILED);
        assert_eq!(driver.status(), FAILED);
        driver.set_status(RUNNING);
        assert_eq!(driver.status(), FAILED);
        assert_eq!(device.log().activations, 0);
    });
}

#[test]
fn doorbells_that_exit_ring_their_queue_only() {
    on_each_transport(|driver, device| {
        driver.start(VERSION_1);
        let doorbell = std::sync::Arc::clone(&device.log().queues[0].doorbell);
        driver.ring(1);
        driver.ring(2);
        assert!(doorbell.read().is_err());
        driver.ring(0);
        driver.ring(0);
        assert_eq!(doorbell.read().unwrap(), 2);
    });
}

#[test]
fn configuration_reads_and_writes_at_any_width() {
    on_each_transport(|driver, device| {
        driver.write_config(2, &[1, 2, 3, 4]);
        let mut data = [0xff; 8];
        driver.read_config(0, &mut data);
        assert_eq!(data, [0, 0, 1, 2, 3, 4, 0, 0]);
        driver.write_config(15, &[9, 9]);
        assert_eq!(device.log().config[15], 9);
        let mut data = [0xff; 4];
        driver.read_config(14, &mut data);
        assert_eq!(data, [0, 9, 0, 0]);
        driver.read_config(0x200, &mut data);
        assert_eq!(data, [0; 4]);
    });
}

#[test]
fn reset_forgets_the_configuration_of_a_driver_that_never_started() {
    on_each_transport(|driver, device| {
        driver.write_config(0, &[7]);
        driver.set_status(0);
        assert_eq!(device.log().config, [0; CONFIG_BYTES]);
    });
}

#[test]
fn the_generation_changes_with_the_configuration() {
    on_each_transport(|driver, device| {
        driver.start(VERSION_1);
        let before = driver.generation();
        device.notifier().queue_used(0);
        assert_eq!(driver.generation(), before);
        device.notifier().config_changed();
        assert_ne!(driver.generation(), before);
    });
}
