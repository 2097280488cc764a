//! A disk in memory that fails on purpose: at power cuts, by errors, by being full.
//!
//! Changes go to a volatile cache first. A sync makes those durable that had completed before it
//! began. A power cut keeps of the rest what the seed says: each change wholly, not at all, or
//! torn between its 512-byte sectors, independently of the others. That is all that a real disk
//! promises, and more malice than most have.

mod cache;
mod fault;
mod image;

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use super::{Geometry, Storage, StorageExtent};
use crate::reactor::{Operation, submit};
use crate::rng::Rng;
use crate::{Buffers, Error};
use cache::{Cache, Change};
pub use fault::{Fault, Operation as FaultyOperation};
use image::{Image, PAGE_BYTES};

/// What a simulated disk is called in messages unless it is named.
const PATH: &str = "simulated disk";

/// Any step of an operation takes at most this long, in virtual time.
const STEP_MAX_NS: u64 = 50_000;

/// What a simulated disk was asked to do, failed operations included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimulatedCounters {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Discards, zeroed ranges, and changes of the size.
    pub others: u64,
}

/// A disk in memory. Clones are the same disk, so that a test can hold on to one that a format
/// owns. Under [`Backend::Simulated`](crate::Backend::Simulated), operations take virtual time and
/// overtake each other.
#[derive(Clone)]
pub struct SimulatedStorage {
    path: Rc<Path>,
    state: Rc<RefCell<State>>,
}

struct State {
    cache: Cache,
    capacity_bytes: u64,
    faults: Vec<Fault>,
    counters: SimulatedCounters,
    rng: Rng,
}

impl SimulatedStorage {
    /// A disk of zeros, all of them holes, whose choices come from `seed`.
    pub fn new(size_bytes: u64, seed: u64) -> Self {
        Self::from_image(Image::new(size_bytes), Rng::new(seed))
    }

    /// A disk that holds `bytes`, all of them durable. Pages of zeros are holes.
    pub fn from_bytes(bytes: &[u8], seed: u64) -> Self {
        Self::from_image(Image::from_bytes(bytes), Rng::new(seed))
    }

    /// The same disk under another name, to be told from others in messages.
    #[must_use]
    pub fn named(mut self, path: impl AsRef<Path>) -> Self {
        self.path = path.as_ref().into();
        self
    }

    /// What is read at this moment, from the first byte to the last.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.state.borrow().cache.current().to_bytes()
    }

    fn from_image(image: Image, rng: Rng) -> Self {
        let state = State {
            cache: Cache::new(image),
            capacity_bytes: u64::MAX,
            faults: Vec::new(),
            counters: SimulatedCounters::default(),
            rng,
        };
        Self {
            path: Path::new(PATH).into(),
            state: Rc::new(RefCell::new(state)),
        }
    }

    /// What a power cut at this moment leaves: another disk, with an empty cache. This one goes on
    /// as if nothing had happened, so that several cuts may be tried.
    #[must_use]
    pub fn power_cut(&self) -> Self {
        let mut state = self.state.borrow_mut();
        let State { cache, rng, .. } = &mut *state;
        let left = cache.power_cut(rng);
        let rng = Rng::new(rng.next());
        Self::from_image(left, rng).named(&self.path)
    }

    /// From now on fails as `fault` says.
    pub fn inject(&self, fault: Fault) {
        self.state.borrow_mut().faults.push(fault);
    }

    /// From now on fails writes that would need more space than this, until some is given back.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.state.borrow_mut().capacity_bytes = capacity_bytes;
    }

    /// The space in use, which holes are not.
    pub fn allocated_bytes(&self) -> u64 {
        self.state.borrow().cache.current().allocated_bytes()
    }

    /// What it was asked to do.
    pub fn counters(&self) -> SimulatedCounters {
        self.state.borrow().counters
    }

    fn error(
        &self,
        operation: &'static str,
        offset: u64,
        len: u64,
    ) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Range {
            path: self.path.to_path_buf(),
            operation,
            offset,
            len,
            source,
        }
    }

    fn count(&self, count: impl FnOnce(&mut SimulatedCounters)) {
        count(&mut self.state.borrow_mut().counters);
    }

    /// Lets some virtual time pass, in which other operations go on.
    async fn step(&self) {
        let duration_ns = self.state.borrow_mut().rng.below(STEP_MAX_NS);
        // Time passes without fail.
        let _ = submit(Operation::Delay { duration_ns }).await;
    }

    fn fault(&self, operation: FaultyOperation) -> Option<io::Error> {
        let faults = &mut self.state.borrow_mut().faults;
        faults.iter_mut().find_map(|fault| fault.strikes(operation))
    }

    /// Applies a change, somewhere between its beginning and its end. If the future is dropped
    /// before the end, no sync ever covers the change.
    async fn change(&self, change: Change) -> io::Result<()> {
        self.step().await;
        let failure = self.fault(change.operation());
        let applied = self.state.borrow_mut().apply(change, failure);
        self.step().await;
        self.state.borrow_mut().cache.completed(applied?);
        Ok(())
    }
}

impl State {
    /// Applies a change; if it is to fail, some sectors of it.
    fn apply(&mut self, change: Change, failure: Option<io::Error>) -> io::Result<u64> {
        if !change.is_possible() {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        if let Some(failure) = failure {
            for piece in change.torn(&mut self.rng) {
                self.cache.apply(piece);
            }
            return Err(failure);
        }
        let image = self.cache.current();
        let free_bytes = self.capacity_bytes.saturating_sub(image.allocated_bytes());
        if image.space_for(&change) > free_bytes {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(self.cache.apply(change))
    }
}

impl Storage for SimulatedStorage {
    fn path(&self) -> &Path {
        &self.path
    }

    fn geometry(&self) -> Geometry {
        let page = u32::try_from(PAGE_BYTES).expect("small");
        Geometry {
            read_only: false,
            block_size_bytes: 512,
            physical_block_size_bytes: page,
            optimal_io_size_bytes: 0,
            discard_granularity_bytes: page,
        }
    }

    fn size_bytes(&self) -> u64 {
        self.state.borrow().cache.current().size_bytes()
    }

    async fn read_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let len = buffers.len() as u64;
        self.count(|counters| counters.reads += 1);
        self.step().await;
        let result = match self.fault(FaultyOperation::Read) {
            Some(failure) => Err(failure),
            None => self.state.borrow().cache.current().read(offset, &buffers),
        };
        self.step().await;
        result.map_err(self.error("read", offset, len))
    }

    async fn write_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let len = buffers.len() as u64;
        self.count(|counters| {
            counters.writes += 1;
            counters.written_bytes += len;
        });
        let change = Change::Write {
            offset,
            bytes: buffers.to_vec(),
        };
        self.change(change)
            .await
            .map_err(self.error("write", offset, len))
    }

    async fn sync(&self) -> Result<(), Error> {
        let covered = self.state.borrow().cache.completed_so_far();
        self.count(|counters| counters.syncs += 1);
        self.step().await;
        let failure = self.fault(FaultyOperation::Sync);
        let mut state = self.state.borrow_mut();
        let State { cache, rng, .. } = &mut *state;
        if let Some(source) = failure {
            cache.fail_sync(&covered, rng);
            return Err(Error::Io {
                path: self.path.to_path_buf(),
                operation: "flush",
                source,
            });
        }
        cache.sync(&covered);
        Ok(())
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.count(|counters| counters.others += 1);
        // A disk may ignore it, and nobody may rely on what is read afterwards.
        if self.state.borrow_mut().rng.coin() {
            return Ok(());
        }
        let change = Change::Zero {
            offset,
            len,
            unmap: true,
        };
        self.change(change)
            .await
            .map_err(self.error("discard", offset, len))
    }

    async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.count(|counters| counters.others += 1);
        let change = Change::Zero { offset, len, unmap };
        self.change(change)
            .await
            .map_err(self.error("write zeros to", offset, len))
    }

    async fn extent(&self, offset: u64, len: u64) -> Result<StorageExtent, Error> {
        self.step().await;
        Ok(self.state.borrow().cache.current().extent(offset, len))
    }

    async fn set_len(&self, size_bytes: u64) -> Result<(), Error> {
        self.count(|counters| counters.others += 1);
        let change = Change::SetLen { size_bytes };
        self.change(change)
            .await
            .map_err(self.error("resize", 0, size_bytes))
    }

    fn close(&self) {}
}
