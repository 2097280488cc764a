//! Opening, resetting and closing.

use std::sync::mpsc::{Receiver, channel};
use std::thread;

use disk::OpenOptions;

use super::fake_disk::Done;
use super::*;

/// A thread that has requests in flight to wait for must not return, however often it is let run.
fn assert_waits<T>(returned: &Receiver<T>) {
    for _ in 0..10_000 {
        assert!(
            returned.try_recv().is_err(),
            "returned with requests in flight"
        );
        thread::yield_now();
    }
}

#[test]
fn error_of_opening_comes_back() {
    let open = async || OpenOptions::new("/nonexistent/vm.img").open().await;
    let error = Block::start(config(1), open).err().unwrap().to_string();
    assert!(error.starts_with("/nonexistent/vm.img: "), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn panic_of_opening_is_an_error() {
    let open = async || -> Result<Rc<dyn Disk>, disk::Error> { panic!("a panic on purpose") };
    let error = Block::start(config(1), open).err().unwrap().to_string();
    assert_eq!(error, "blk0: cannot reach its I/O thread: it ended early");
}

#[test]
fn reset_waits_for_what_is_in_flight() {
    let mut rig = Rig::new();
    rig.disk.shut();
    let target = rig.driver.allocate(512);
    let sent: Vec<_> = (0..4)
        .map(|sector| {
            let sent = rig.prepare(VIRTIO_BLK_T_IN, sector, &[writable(target, 512)]);
            rig.driver.send(0, &sent.parts);
            sent
        })
        .collect();
    rig.disk.wait_in_flight(4);
    let (returned, reset) = channel();
    thread::scope(|scope| {
        let device = &mut rig.device;
        scope.spawn(move || {
            device.reset();
            returned.send(()).unwrap();
        });
        assert_waits(&reset);
        rig.disk.open();
        reset.recv().unwrap();
    });
    assert_eq!(rig.used(0).len(), 4);
    assert!(sent.iter().all(|sent| rig.status(sent) == OK));
    assert_eq!(rig.disk.take_done().len(), 4);
}

#[test]
fn after_a_reset_nothing_is_touched_until_the_next_start() {
    let mut rig = Rig::new();
    rig.write(0, &pattern(1, 512));
    rig.disk.take_done();
    rig.reset();
    let before = rig.driver.queues[0].used_index();
    let sent = rig.prepare(VIRTIO_BLK_T_FLUSH, 0, &[]);
    rig.driver.send(0, &sent.parts);
    rig.reset();
    assert_eq!(rig.status(&sent), UNANSWERED);
    assert_eq!(rig.driver.queues[0].used_index(), before);
    assert_eq!(rig.disk.take_done(), []);
    let features = usual_features(&rig.device);
    rig.activate(features);
    assert_eq!(rig.read(0, 512), (OK, pattern(1, 512)));
}

#[test]
fn buffers_made_available_before_the_start_are_served() {
    let mut rig = Rig::with_queues(1, PROPERTIES);
    let activation = rig.driver.activation(0);
    let sent = rig.prepare(VIRTIO_BLK_T_FLUSH, 0, &[]);
    rig.driver.queues[0].add(&sent.parts);
    rig.device.activate(activation).unwrap();
    rig.driver.wait_used(0);
    assert_eq!(rig.status(&sent), OK);
}

#[test]
fn resets_without_a_start_are_harmless() {
    let mut rig = Rig::with_queues(1, PROPERTIES);
    rig.reset();
    rig.reset();
    rig.activate(0);
    assert_eq!(rig.flush(), OK);
}

#[test]
fn close_answers_what_is_in_flight_and_closes_the_disk_once() {
    let mut rig = Rig::new();
    let handle = rig.device.handle();
    rig.disk.shut();
    let data = readable(rig.driver.place(&pattern(1, 512)), 512);
    let sent = rig.prepare(VIRTIO_BLK_T_OUT, 0, &[data]);
    rig.driver.send(0, &sent.parts);
    rig.disk.wait_in_flight(1);
    let (returned, closed) = channel();
    thread::scope(|scope| {
        let handle = &handle;
        scope.spawn(move || returned.send(handle.close()).unwrap());
        assert_waits(&closed);
        rig.disk.open();
        closed.recv().unwrap().unwrap();
    });
    assert_eq!(rig.status(&sent), OK);
    assert_eq!(
        rig.disk.take_done(),
        [
            Done::Write {
                offset: 0,
                len: 512
            },
            Done::Close
        ]
    );
    handle.close().unwrap();
    let host_syncs = handle.statistics().disk.map(|disk| disk.host_syncs);
    assert_eq!(host_syncs, Some(7));

    // The guest may still poke at a device whose disk is closed.
    rig.reset();
    let error = rig.device.activate(rig.driver.activation(0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "blk0: cannot reach its I/O thread: it ended early"
    );
    drop(rig.device);
    assert_eq!(rig.disk.take_done(), []);
}

#[test]
fn drop_closes_the_disk() {
    let rig = Rig::new();
    drop(rig.device);
    assert_eq!(rig.disk.take_done(), [Done::Close]);
}

#[test]
fn error_of_closing_is_reported_once() {
    let rig = Rig::new();
    rig.disk.set_failing(true);
    let error = rig.device.handle().close().unwrap_err();
    assert!(error.to_string().starts_with("fake.img: "), "{error}");
    rig.device.handle().close().unwrap();
    assert!(rig.device.handle().statistics().disk.is_some());
}

#[test]
fn real_disk_is_written_flushed_and_given_back() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let path = file.path().to_owned();
    let open = |path: std::path::PathBuf| async move || OpenOptions::new(path).open().await;
    let device = Block::start(config(2), open(path.clone())).unwrap();
    let mut rig = Rig {
        driver: MockDriver::new(&[16; 2]),
        device,
        disk: Arc::new(FakeState::new(PROPERTIES)),
    };
    let features = usual_features(&rig.device);
    rig.activate(features);
    let bytes = pattern(77, 64 << 10);
    assert_eq!(rig.write(9, &bytes), OK);
    assert_eq!(rig.flush(), OK);
    assert_eq!(rig.read(9, bytes.len()), (OK, bytes.clone()));
    let error = Block::start(config(1), open(path.clone())).err().unwrap();
    assert!(error.to_string().contains("in use"), "{error}");
    rig.device.handle().close().unwrap();
    let counted = rig.device.handle().statistics().disk.unwrap();
    assert_eq!((counted.writes, counted.reads, counted.flushes), (1, 1, 1));
    Block::start(config(1), open(path.clone())).unwrap();
    assert_eq!(
        std::fs::read(path).unwrap()[9 * 512..][..bytes.len()],
        bytes
    );
}
