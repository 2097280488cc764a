//! A disk in memory that remembers what it was asked, and waits or fails when told to.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use disk::{BoxFuture, Content, Disk, Error, Extent, Op, Properties, Request, Statistics};

const SIZE_BYTES: usize = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(30);

pub(super) const PROPERTIES: Properties = Properties {
    size_bytes: SIZE_BYTES as u64,
    read_only: false,
    block_size_bytes: 512,
    physical_block_size_bytes: 4096,
    optimal_io_size_bytes: 65536,
    discard_granularity_bytes: 4096,
};

/// What a disk did, in the order in which it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Read { offset: u64, len: u64 },
    Write { offset: u64, len: u64 },
    Flush,
    Discard { offset: u64, len: u64 },
    WriteZeroes { offset: u64, len: u64, unmap: bool },
    Close,
}

/// The part of a fake disk that the test sees.
pub(super) struct FakeState {
    properties: Properties,
    content: Mutex<Vec<u8>>,
    done: Mutex<Vec<Done>>,
    gate: Mutex<Gate>,
    arrived: Condvar,
    failing: AtomicBool,
}

#[derive(Default)]
struct Gate {
    shut: bool,
    waiting: Vec<Waker>,
    in_flight: usize,
    in_flight_max: usize,
}

impl FakeState {
    pub(super) fn new(properties: Properties) -> Self {
        Self {
            properties,
            content: Mutex::new(vec![0; SIZE_BYTES]),
            done: Mutex::default(),
            gate: Mutex::default(),
            arrived: Condvar::new(),
            failing: AtomicBool::new(false),
        }
    }

    /// Takes the record of what was done.
    pub(super) fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.done.lock().unwrap())
    }

    pub(super) fn content(&self, offset: usize, len: usize) -> Vec<u8> {
        self.content.lock().unwrap()[offset..offset + len].to_vec()
    }

    /// Whether requests fail from now on.
    pub(super) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// Keeps requests waiting from now on.
    pub(super) fn shut(&self) {
        self.gate.lock().unwrap().shut = true;
    }

    /// Lets them all go.
    pub(super) fn open(&self) {
        let mut gate = self.gate.lock().unwrap();
        gate.shut = false;
        gate.waiting.drain(..).for_each(Waker::wake);
    }

    /// Waits until `count` requests are in flight.
    pub(super) fn wait_in_flight(&self, count: usize) {
        let gate = self.gate.lock().unwrap();
        let waited = self
            .arrived
            .wait_timeout_while(gate, DEADLINE, |gate| gate.in_flight < count)
            .unwrap();
        assert!(
            !waited.1.timed_out(),
            "fewer than {count} requests reached the disk"
        );
    }

    /// The most requests that were ever in flight at once.
    pub(super) fn in_flight_max(&self) -> usize {
        self.gate.lock().unwrap().in_flight_max
    }

    fn arrive(&self) {
        let mut gate = self.gate.lock().unwrap();
        gate.in_flight += 1;
        gate.in_flight_max = gate.in_flight_max.max(gate.in_flight);
        self.arrived.notify_all();
    }

    async fn pass(&self) {
        poll_fn(|context| {
            let mut gate = self.gate.lock().unwrap();
            if !gate.shut {
                return Poll::Ready(());
            }
            gate.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.gate.lock().unwrap().in_flight -= 1;
    }

    fn perform(&self, request: Request) -> Done {
        let Request {
            op, offset, len, ..
        } = request;
        let start = usize::try_from(offset).unwrap();
        let range = start..start + usize::try_from(len).unwrap();
        let mut content = self.content.lock().unwrap();
        match op {
            Op::Read(buffers) => {
                buffers.copy_from(&content[range]);
                Done::Read { offset, len }
            }
            Op::Write(buffers) => {
                buffers.copy_to(&mut content[range]);
                Done::Write { offset, len }
            }
            Op::Flush => Done::Flush,
            Op::Discard => {
                content[range].fill(0xdd);
                Done::Discard { offset, len }
            }
            Op::WriteZeroes { unmap } => {
                content[range].fill(0);
                Done::WriteZeroes { offset, len, unmap }
            }
        }
    }
}

/// The part that lives on the I/O thread.
pub(super) struct FakeDisk {
    state: Arc<FakeState>,
}

impl FakeDisk {
    pub(super) fn new(state: Arc<FakeState>) -> Self {
        Self { state }
    }
}

impl Disk for FakeDisk {
    fn properties(&self) -> Properties {
        self.state.properties
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.state.arrive();
            self.state.pass().await;
            if self.state.failing.load(Ordering::SeqCst) {
                return Err(failure());
            }
            let done = self.state.perform(request);
            self.state.done.lock().unwrap().push(done);
            Ok(())
        })
    }

    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        Box::pin(async move {
            Ok(Extent {
                len,
                content: Content::Data,
                depth: 0,
                host_offset: Some(offset),
            })
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.state.done.lock().unwrap().push(Done::Close);
            if self.state.failing.load(Ordering::SeqCst) {
                Err(failure())
            } else {
                Ok(())
            }
        })
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            host_syncs: 7,
            ..Statistics::default()
        }
    }
}

fn failure() -> Error {
    Error::FlushFailedBefore {
        path: "fake.img".into(),
    }
}
