//! The block device against a driver that is right, wrong and malicious.

mod fake_disk;
mod features;
mod fuzz;
mod hostile;
mod life;

use std::rc::Rc;
use std::sync::Arc;

use disk::Disk;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use zerocopy::IntoBytes;

use super::request::{Header, RangeToClear};
use super::{Block, BlockConfig};
use crate::virtio::VirtioDevice;
use crate::virtio::driver_mock::{MockDriver, Part, Used, readable, writable};
use fake_disk::{FakeDisk, FakeState, PROPERTIES};

const OK: u8 = VIRTIO_BLK_S_OK.to_le_bytes()[0];
const IO_ERROR: u8 = VIRTIO_BLK_S_IOERR.to_le_bytes()[0];
const UNSUPPORTED: u8 = VIRTIO_BLK_S_UNSUPP.to_le_bytes()[0];
/// What no device writes as a status.
const UNANSWERED: u8 = 0xee;

/// A device on a fake disk, and its driver.
struct Rig {
    driver: MockDriver,
    device: Block,
    disk: Arc<FakeState>,
}

/// A request as its driver keeps it.
struct Sent {
    parts: Vec<Part>,
    status: u64,
}

/// The features that most tests negotiate: all but the suppression of interrupts.
fn usual_features(device: &Block) -> u64 {
    device.features() & !(1 << VIRTIO_RING_F_EVENT_IDX)
}

fn config(queues: usize) -> BlockConfig {
    BlockConfig {
        name: "blk0".to_owned(),
        serial: "disk-7".to_owned(),
        queues: u16::try_from(queues).unwrap(),
        queue_size: 16,
    }
}

fn start(queues: usize, properties: disk::Properties) -> (Block, Arc<FakeState>) {
    let state = Arc::new(FakeState::new(properties));
    let shared = Arc::clone(&state);
    let open = async move || Ok(Rc::new(FakeDisk::new(shared)) as Rc<dyn Disk>);
    (Block::start(config(queues), open).unwrap(), state)
}

impl Rig {
    /// A running device with one queue.
    fn new() -> Self {
        let mut rig = Self::with_queues(1, PROPERTIES);
        let features = usual_features(&rig.device);
        rig.activate(features);
        rig
    }

    /// A device that its driver has not started.
    fn with_queues(queues: usize, properties: disk::Properties) -> Self {
        let (device, disk) = start(queues, properties);
        Self {
            driver: MockDriver::new(&vec![16; queues]),
            device,
            disk,
        }
    }

    fn activate(&mut self, features: u64) {
        let activation = self.driver.activation(features);
        self.device.activate(activation).unwrap();
    }

    /// Places a header and a status byte around `data`.
    fn prepare(&mut self, kind: u32, sector: u64, data: &[Part]) -> Sent {
        let header = Header {
            kind: kind.into(),
            reserved: 0.into(),
            sector: sector.into(),
        };
        let header = readable(self.driver.place(header.as_bytes()), size_of::<Header>());
        let status = self.driver.place(&[UNANSWERED]);
        let parts = [&[header], data, &[writable(status, 1)]].concat();
        Sent { parts, status }
    }

    fn status(&self, sent: &Sent) -> u8 {
        self.driver.bytes(sent.status, 1)[0]
    }

    /// Sends a request and waits for its answer: the status and the used length.
    fn request(&mut self, kind: u32, sector: u64, data: &[Part]) -> (u8, u32) {
        let sent = self.prepare(kind, sector, data);
        let head = self.driver.send(0, &sent.parts);
        let used = self.driver.wait_used(0);
        assert_eq!(used.head, head);
        (self.status(&sent), used.len)
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        let data = readable(self.driver.place(bytes), bytes.len());
        self.request(VIRTIO_BLK_T_OUT, sector, &[data]).0
    }

    fn read(&mut self, sector: u64, len: usize) -> (u8, Vec<u8>) {
        let data = writable(self.driver.allocate(len), len);
        let (status, _) = self.request(VIRTIO_BLK_T_IN, sector, &[data]);
        (status, self.driver.bytes(data.address, len))
    }

    fn flush(&mut self) -> u8 {
        self.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0
    }

    /// Sends a discard or write-zeroes request of these sectors, counts and flags.
    fn clear(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let wire = |&(sector, sectors, flags): &(u64, u32, u32)| RangeToClear {
            sector: sector.into(),
            sectors: sectors.into(),
            flags: flags.into(),
        };
        let ranges: Vec<_> = ranges.iter().map(wire).collect();
        let data = readable(
            self.driver.place(ranges.as_bytes()),
            ranges.as_bytes().len(),
        );
        self.request(kind, 0, &[data]).0
    }

    /// Waits until the device has answered all that is in flight; it then no longer runs.
    fn reset(&mut self) {
        self.device.reset();
    }

    /// The used entries that came and were not waited for.
    fn used(&mut self, queue: usize) -> Vec<Used> {
        std::iter::from_fn(|| self.driver.queues[queue].take_used()).collect()
    }
}

/// Bytes that differ from sector to sector.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| seed.wrapping_add((at / 7 + at / 512).to_le_bytes()[0]))
        .collect()
}
