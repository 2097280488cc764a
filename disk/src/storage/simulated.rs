//! A disk in memory that fails on purpose: at power cuts, by errors, by being full, by rotting.
//!
//! Changes go to a volatile cache first. A sync makes those durable that had completed before it
//! began. A power cut keeps of the rest what the seed says: each change wholly, not at all, or
//! torn between its 512-byte sectors, independently of the others. That is all that a real disk
//! promises, and more malice than most have. Only a barrier ties changes together: what began after
//! it is not left unless all is left, whole, that had completed before it began.

mod cache;
mod change;
mod device;
mod fault;
mod image;
mod latency;
mod ledger;
mod operations;
mod recording;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use crate::Buffers;
use crate::rng::Rng;
use cache::Cache;
use change::{Change, SECTOR_BYTES};
pub use device::SimulatedDevice;
pub use fault::{Fault, Operation as FaultyOperation};
use image::Image;
pub use latency::LatencyModel;
use latency::{Latency, Work};
use ledger::Ledger;
use recording::Recorder;
pub use recording::Recording;

/// What a simulated disk is called in messages unless it is named.
const PATH: &str = "simulated disk";

/// Without a latency model, any step of an operation takes at most this long, in virtual time.
const STEP_MAX_NS: u64 = 50_000;

/// What a simulated disk was asked to do, failed operations included. What the bytes were for, the
/// format knows: see [`Statistics`](crate::Statistics).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimulatedCounters {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Barriers.
    pub barriers: u64,
    /// Discards, zeroed ranges, and changes of the size.
    pub others: u64,
}

/// A disk in memory. Clones are the same disk, so that a test can hold on to one that a format
/// owns. Under [`Backend::Simulated`](crate::Backend::Simulated), operations take virtual time and
/// overtake each other.
#[derive(Clone)]
pub struct SimulatedStorage {
    path: Rc<Path>,
    read_only: bool,
    is_block_device: bool,
    state: Rc<RefCell<State>>,
}

struct State {
    cache: Cache,
    capacity_bytes: u64,
    faults: Vec<Fault>,
    /// The numbers of sectors that cannot be read until they are written.
    unreadable: BTreeSet<u64>,
    counters: SimulatedCounters,
    /// If absent, the seed says how long everything takes.
    latency: Option<Latency>,
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

    /// The same disk for who may only read it: a change by this way is a mistake, and panics.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The same disk as a block device: its size stays as it is, it knows of no holes, and what is
    /// discarded is left as it was.
    #[must_use]
    pub fn block_device(mut self) -> Self {
        self.is_block_device = true;
        self
    }

    /// Makes a block device larger, durably, as its owner may at any time.
    pub fn grow_block_device(&self, by_bytes: u64) {
        let cache = &mut self.state.borrow_mut().cache;
        let size_bytes = cache.current().size_bytes() + by_bytes;
        let number = cache.apply(Change::SetLen { size_bytes }, 0);
        cache.sync(vec![number]);
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
            unreadable: BTreeSet::new(),
            counters: SimulatedCounters::default(),
            latency: None,
            rng,
        };
        Self {
            path: Path::new(PATH).into(),
            read_only: false,
            is_block_device: false,
            state: Rc::new(RefCell::new(state)),
        }
    }

    /// What a power cut at this moment leaves: another disk, with an empty cache, without faults.
    /// This one goes on as if nothing had happened, so that several cuts may be tried. See
    /// [`Recording`] for cuts of several disks, and at every moment.
    #[must_use]
    pub fn power_cut(&self) -> Self {
        let mut state = self.state.borrow_mut();
        let State { cache, rng, .. } = &mut *state;
        let left = cache.power_cut(rng);
        let rng = Rng::new(rng.next());
        Self::from_image(left, rng).named(&self.path)
    }

    /// From now on takes as long as `model` says, by the executor's virtual clock. The seed still
    /// says in which order tasks run that are ready at the same time.
    pub fn set_latency(&self, model: LatencyModel) {
        self.state.borrow_mut().latency = Some(Latency::new(model));
    }

    /// From now on takes the time of `device`, on which it begins at `start`, together with all
    /// others there.
    pub fn put_on(&self, device: &SimulatedDevice, start: u64) {
        self.state.borrow_mut().latency = Some(Latency::on(device, start));
    }

    /// From now on fails as `fault` says.
    pub fn inject(&self, fault: Fault) {
        self.state.borrow_mut().faults.push(fault);
    }

    /// From now on does what it should: no fault is left, and there is room.
    pub fn heal(&self) {
        let mut state = self.state.borrow_mut();
        state.faults.clear();
        state.capacity_bytes = u64::MAX;
    }

    /// Makes reads that touch any sector of a range fail by `EIO`, until it is written again.
    pub fn make_unreadable(&self, range: Range<u64>) {
        let sectors = range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES);
        self.state.borrow_mut().unreadable.extend(sectors);
    }

    /// Flips so many bits of a range, wherever the seed says, and tells nobody. What else the
    /// sectors hold is durable afterwards.
    ///
    /// # Panics
    /// When the range is empty or reaches past the end.
    pub fn rot(&self, range: Range<u64>, bits: u32) {
        let mut state = self.state.borrow_mut();
        for _ in 0..bits {
            state.flip_bit(&range);
        }
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

    /// Tells `recorder` of all that happens from now on.
    fn record(&self, recorder: Recorder) -> Ledger {
        self.state.borrow_mut().cache.record(recorder)
    }
}

impl State {
    /// Applies a change that began after so many barriers; if it is to fail, some sectors of it.
    fn apply(&mut self, change: Change, after: u64, failure: Option<io::Error>) -> io::Result<u64> {
        if !change.is_possible() {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        if let Some(failure) = failure {
            self.cache.apply_torn(&change, after, &mut self.rng);
            return Err(failure);
        }
        let image = self.cache.current();
        let free_bytes = self.capacity_bytes.saturating_sub(image.allocated_bytes());
        if image.space_for(&change) > free_bytes {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let (offset, len) = change.extent();
        let sectors = offset.div_ceil(SECTOR_BYTES)..(offset + len) / SECTOR_BYTES;
        self.unreadable.retain(|sector| !sectors.contains(sector));
        Ok(self.cache.apply(change, after))
    }

    fn read(&self, offset: u64, buffers: &Buffers) -> io::Result<()> {
        let end = offset.saturating_add(buffers.len() as u64);
        let sectors = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        if self.unreadable.range(sectors).next().is_some() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.cache.current().read(offset, buffers)
    }

    fn flip_bit(&mut self, range: &Range<u64>) {
        let offset = range.start + self.rng.below(range.end - range.start);
        let start = offset - offset % SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.cache.current().size_bytes());
        let small = |n: u64| usize::try_from(n).expect("within a sector");
        let sector = Buffers::zeroed(small(end - start));
        let read = self.cache.current().read(start, &sector);
        read.expect("rot past the end of the disk");
        let mut bytes = sector.to_vec();
        bytes[small(offset - start)] ^= 1 << self.rng.below(8);
        let bytes = bytes.into();
        let rotten = Change::Write {
            offset: start,
            bytes,
        };
        let number = self.cache.apply(rotten, 0);
        self.cache.sync(vec![number]);
    }

    /// How long an operation takes before it has its effect, and until its end after that.
    fn times_ns(&mut self, work: Work, now_ns: u64) -> (u64, u64) {
        let size_bytes = self.cache.current().size_bytes();
        match &mut self.latency {
            Some(latency) => {
                let total_ns = latency.take(work, now_ns, size_bytes);
                (total_ns / 2, total_ns - total_ns / 2)
            }
            None => (self.rng.below(STEP_MAX_NS), self.rng.below(STEP_MAX_NS)),
        }
    }
}

#[cfg(test)]
mod tests;
