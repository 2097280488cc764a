//! What the allocator remembers between two calls.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::RandomState;

use crate::qcow2::format::Layout;
use crate::range_locks::RangeLocks;
use crate::ranges::Ranges;

/// So many runs of zeros are known.
const ZEROS_MAX: usize = 1 << 16;

/// Where to look for free clusters.
pub(super) struct FreeSpace {
    /// One looks at a time.
    pub(super) lock: RangeLocks,
    /// No cluster below is free, as far as we know.
    pub(super) hint: Cell<u64>,
    /// From here on no cluster has ever been written: those of a file read as zeros.
    pub(super) untouched: Cell<u64>,
    /// The end of all clusters that were handed out since the journal was made.
    pub(super) allocated_end: Cell<u64>,
    /// Where the next compressed data may go, in the rest of a cluster.
    pub(super) packed: Cell<Option<u64>>,
    /// Clusters that were handed out and are not counted yet, because nothing points to them; and
    /// how often.
    pins: RefCell<HashMap<u64, u32, RandomState>>,
    /// Clusters that are not counted any more, but may be pointed to until that is durable.
    /// Each time has its number.
    limbo: RefCell<HashMap<u64, u64, RandomState>>,
    held: Cell<u64>,
    /// Free clusters that read as zeros, durably, as bytes of the file.
    zeros: RefCell<Ranges>,
    /// Clusters that belong to nobody whom refcounts know.
    reserved: RefCell<Range<u64>>,
}

impl FreeSpace {
    /// For a file of so many clusters.
    pub(super) fn new(file_clusters: u64) -> Self {
        Self {
            lock: RangeLocks::default(),
            hint: Cell::new(0),
            untouched: Cell::new(file_clusters),
            allocated_end: Cell::new(0),
            packed: Cell::new(None),
            pins: RefCell::default(),
            limbo: RefCell::default(),
            held: Cell::default(),
            zeros: RefCell::default(),
            reserved: RefCell::new(0..0),
        }
    }

    /// Whether a cluster with a refcount of 0 may be handed out.
    pub(super) fn is_available(&self, cluster: u64) -> bool {
        !self.reserved.borrow().contains(&cluster)
            && !self.pins.borrow().contains_key(&cluster)
            && !self.limbo.borrow().contains_key(&cluster)
    }

    /// Where reserved clusters end, if this is one.
    pub(super) fn reserved_end(&self, cluster: u64) -> Option<u64> {
        let reserved = self.reserved.borrow();
        reserved.contains(&cluster).then_some(reserved.end)
    }

    /// The clusters that are reserved.
    pub(super) fn reserved(&self) -> Range<u64> {
        self.reserved.borrow().clone()
    }

    /// Keeps a cluster for whoever is going to point to it.
    pub(super) fn pin(&self, cluster: u64) {
        *self.pins.borrow_mut().entry(cluster).or_default() += 1;
    }

    /// It is counted now, or not wanted. Returns whether others keep it.
    pub(super) fn unpin(&self, cluster: u64) -> bool {
        let mut pins = self.pins.borrow_mut();
        let Some(count) = pins.get_mut(&cluster) else {
            return false;
        };
        *count -= 1;
        if *count > 0 {
            return true;
        }
        pins.remove(&cluster);
        false
    }

    /// How often a cluster is kept.
    pub(super) fn pins(&self, cluster: u64) -> u64 {
        self.pins
            .borrow()
            .get(&cluster)
            .map_or(0, |pins| u64::from(*pins))
    }

    /// Keeps a cluster that is not counted any more from being handed out; returns the number of
    /// this time.
    pub(super) fn hold(&self, cluster: u64) -> u64 {
        let number = self.held.get() + 1;
        self.held.set(number);
        self.limbo.borrow_mut().insert(cluster, number);
        number
    }

    /// Whether a cluster is held since that time: meanwhile it may have been used again.
    pub(super) fn is_held(&self, cluster: u64, number: u64) -> bool {
        self.limbo.borrow().get(&cluster) == Some(&number)
    }

    /// A cluster is not held any more.
    pub(super) fn let_go(&self, cluster: u64) {
        self.limbo.borrow_mut().remove(&cluster);
    }

    /// What was given back reads as zeros, durably.
    pub(super) fn note_zeros(&self, offset: u64, len: u64) {
        let mut zeros = self.zeros.borrow_mut();
        if zeros.len() < ZEROS_MAX {
            zeros.insert(offset..offset + len);
        }
    }

    /// Keeps clusters from being handed out that are not counted; none in place of those before.
    pub(super) fn reserve(&self, clusters: Range<u64>) {
        self.reserved.replace(clusters);
    }

    /// The end of all clusters that were ever used, as the number of one.
    pub(super) fn end(&self) -> u64 {
        self.untouched.get()
    }

    /// No more compressed data goes to a cluster.
    pub(super) fn stop_packing(&self, cluster: u64, layout: Layout) {
        let packed = self.packed.get();
        if packed.is_some_and(|end| layout.cluster_index(end - 1) == cluster) {
            self.packed.set(None);
        }
    }

    /// Clusters are handed out. Returns whether all of them read as zeros, durably.
    pub(super) fn hand_out(&self, clusters: Range<u64>, layout: Layout) -> bool {
        let is_untouched = clusters.start >= self.untouched.get();
        self.untouched.set(self.untouched.get().max(clusters.end));
        self.allocated_end
            .set(self.allocated_end.get().max(clusters.end));
        let bytes = clusters.start << layout.cluster_bits..clusters.end << layout.cluster_bits;
        let mut zeros = self.zeros.borrow_mut();
        let is_zero = zeros.missing(&bytes).is_empty();
        zeros.remove(&bytes);
        is_untouched || is_zero
    }

    /// Starts again, after the file has been changed by others.
    pub(super) fn reset(&self, file_clusters: u64) {
        self.hint.set(0);
        self.untouched.set(file_clusters);
        self.packed.set(None);
        self.pins.borrow_mut().clear();
        self.limbo.borrow_mut().clear();
        self.zeros.replace(Ranges::default());
    }
}
