//! The volatile cache of a simulated disk.

use super::fault::Operation;
use super::image::Image;
use crate::rng::Rng;

/// What is never torn.
const SECTOR_BYTES: u64 = 512;

/// A change of the content.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Zero { offset: u64, len: u64, unmap: bool },
    SetLen { size_bytes: u64 },
}

/// A change that is not durable yet.
struct Pending {
    id: u64,
    change: Change,
    /// Whether its operation was reported done, so that a sync covers it.
    completed: bool,
}

/// The content as reads see it, and what of it a power cut would leave.
pub(super) struct Cache {
    current: Image,
    durable: Image,
    /// In the order in which they were applied, which is that of their numbers.
    pending: Vec<Pending>,
    next_id: u64,
}

impl Cache {
    pub(super) fn new(image: Image) -> Self {
        Self {
            current: image.clone(),
            durable: image,
            pending: Vec::new(),
            next_id: 0,
        }
    }

    pub(super) fn current(&self) -> &Image {
        &self.current
    }

    /// Applies a change for readers, and returns its number.
    pub(super) fn apply(&mut self, change: Change) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.current.apply(&change);
        self.pending.push(Pending {
            id,
            change,
            completed: false,
        });
        id
    }

    pub(super) fn completed(&mut self, id: u64) {
        if let Ok(index) = self.pending.binary_search_by_key(&id, |pending| pending.id) {
            self.pending[index].completed = true;
        }
    }

    /// The changes that a sync covers that begins now.
    pub(super) fn completed_so_far(&self) -> Vec<u64> {
        self.pending
            .iter()
            .filter(|pending| pending.completed)
            .map(|pending| pending.id)
            .collect()
    }

    /// Makes changes durable.
    pub(super) fn sync(&mut self, covered: &[u64]) {
        let Self {
            durable, pending, ..
        } = self;
        pending.retain(|pending| {
            let covered = covered.binary_search(&pending.id).is_ok();
            if covered {
                durable.apply(&pending.change);
            }
            !covered
        });
    }

    /// What Linux does when a sync fails: of the changes, some are durable, and the others are
    /// never tried again, though they can still be read.
    pub(super) fn fail_sync(&mut self, covered: &[u64], rng: &mut Rng) {
        let (kept, lost): (Vec<u64>, Vec<u64>) = covered.iter().partition(|_| rng.coin());
        self.sync(&kept);
        self.pending
            .retain(|pending| lost.binary_search(&pending.id).is_err());
    }

    /// The content after a power cut.
    pub(super) fn power_cut(&self, rng: &mut Rng) -> Image {
        let mut left = self.durable.clone();
        for Pending { change, .. } in &self.pending {
            match rng.below(3) {
                0 => {}
                1 => left.apply(change),
                _ => change.torn(rng).iter().for_each(|piece| left.apply(piece)),
            }
        }
        left
    }
}

impl Change {
    /// What a fault must name to hit it.
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Write { .. } => Operation::Write,
            Self::Zero { .. } => Operation::Zero,
            Self::SetLen { .. } => Operation::SetLen,
        }
    }

    /// Whether it stays below the largest file offset.
    pub(super) fn is_possible(&self) -> bool {
        let (offset, len) = match self {
            Self::Write { offset, bytes } => (*offset, bytes.len() as u64),
            Self::Zero { offset, len, .. } => (*offset, *len),
            Self::SetLen { size_bytes } => (*size_bytes, 0),
        };
        offset
            .checked_add(len)
            .is_some_and(|end| i64::try_from(end).is_ok())
    }

    /// Some of its sectors, as changes of their own.
    pub(super) fn torn(&self, rng: &mut Rng) -> Vec<Self> {
        let (start, len) = match self {
            Self::Write { offset, bytes } => (*offset, bytes.len() as u64),
            Self::Zero { offset, len, .. } => (*offset, *len),
            Self::SetLen { .. } if rng.coin() => return vec![self.clone()],
            Self::SetLen { .. } => return Vec::new(),
        };
        let mut pieces = Vec::new();
        let mut at = start;
        while at < start + len {
            let end = (at - at % SECTOR_BYTES + SECTOR_BYTES).min(start + len);
            if rng.coin() {
                pieces.push(self.piece(start, at, end));
            }
            at = end;
        }
        pieces
    }

    fn piece(&self, start: u64, at: u64, end: u64) -> Self {
        match self {
            Self::Write { bytes, .. } => {
                let index = |n: u64| usize::try_from(n - start).expect("within the bytes");
                Self::Write {
                    offset: at,
                    bytes: bytes[index(at)..index(end)].to_vec(),
                }
            }
            Self::Zero { unmap, .. } => Self::Zero {
                offset: at,
                len: end - at,
                unmap: *unmap,
            },
            Self::SetLen { .. } => self.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Buffers;

    fn write(byte: u8) -> Change {
        Change::Write {
            offset: 0,
            bytes: vec![byte; 512],
        }
    }

    fn first_byte(image: &Image) -> u8 {
        let buffers = Buffers::zeroed(512);
        image.read(0, &buffers).unwrap();
        buffers.to_vec()[0]
    }

    /// The first byte after each of many power cuts.
    fn after_cuts(cache: &Cache) -> Vec<u8> {
        let mut rng = Rng::new(1);
        let mut bytes: Vec<u8> = (0..50)
            .map(|_| first_byte(&cache.power_cut(&mut rng)))
            .collect();
        bytes.sort_unstable();
        bytes.dedup();
        bytes
    }

    #[test]
    fn sync_covers_only_what_was_completed_before_it_began() {
        let mut cache = Cache::new(Image::new(4096));
        let first = cache.apply(write(1));
        assert!(cache.completed_so_far().is_empty());
        cache.completed(first);
        let covered = cache.completed_so_far();
        let second = cache.apply(write(2));
        cache.completed(second);
        cache.sync(&covered);
        assert_eq!(first_byte(cache.current()), 2);
        assert_eq!(after_cuts(&cache), [1, 2]);
    }

    #[test]
    fn failed_sync_may_lose_changes_for_good() {
        let outcomes: Vec<_> = (0..20)
            .map(|seed| {
                let mut cache = Cache::new(Image::new(4096));
                let id = cache.apply(write(1));
                cache.completed(id);
                cache.fail_sync(&[id], &mut Rng::new(seed));
                let covered = cache.completed_so_far();
                cache.sync(&covered);
                assert_eq!(first_byte(cache.current()), 1);
                after_cuts(&cache)
            })
            .collect();
        assert!(
            outcomes.contains(&vec![0]) && outcomes.contains(&vec![1]),
            "{outcomes:?}"
        );
    }
}
