//! The volatile cache of a simulated disk.

use std::collections::BTreeSet;

use super::change::Change;
use super::image::Image;
use super::recording::Recorder;
use crate::rng::Rng;

/// What happens to the content and its durability: all that matters at a power cut.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A change reached the cache. Changes are numbered from 0 in this order.
    Applied(Change),
    /// A sync made the changes with these numbers, in ascending order, durable.
    Synced(Vec<u64>),
    /// A failed sync made sure that these changes are lost, though they can still be read.
    Lost(Vec<u64>),
}

/// What is durable, and what a power cut may leave or not.
#[derive(Clone)]
pub(super) struct Ledger {
    durable: Image,
    /// Changes that are not durable, with their numbers, in the order in which they were applied.
    pending: Vec<(u64, Change)>,
    next: u64,
}

/// The content as reads see it, and what of it a power cut would leave.
pub(super) struct Cache {
    current: Image,
    ledger: Ledger,
    /// Of the changes that are not durable, those that were reported done: a sync covers them.
    completed: Vec<u64>,
    recorder: Option<Recorder>,
}

impl Ledger {
    fn new(image: Image) -> Self {
        Self {
            durable: image,
            pending: Vec::new(),
            next: 0,
        }
    }

    pub(super) fn happened(&mut self, event: &Event) {
        let Self {
            durable, pending, ..
        } = self;
        match event {
            Event::Applied(change) => {
                pending.push((self.next, change.clone()));
                self.next += 1;
            }
            Event::Synced(covered) => {
                let durable_now = with_overlapped(covered, pending);
                pending.retain(|(number, change)| {
                    let is_durable = durable_now.contains(number);
                    if is_durable {
                        durable.apply(change);
                    }
                    !is_durable
                });
            }
            Event::Lost(lost) => pending.retain(|(number, _)| lost.binary_search(number).is_err()),
        }
    }

    /// The content after a power cut: of each change that was not durable, all, nothing, or some
    /// sectors. Some cuts leave nearly all of the changes and some hardly any, for an order that
    /// was not kept shows best when one change is missing, or alone.
    pub(super) fn power_cut(&self, rng: &mut Rng) -> Image {
        let kept_in_8 = [0, 1, 4, 4, 7, 8][rng.index(6)];
        let mut left = self.durable.clone();
        for (_, change) in &self.pending {
            let kept = rng.below(8) < kept_in_8;
            if (1..8).contains(&kept_in_8) && rng.below(3) == 0 {
                for run in change.torn(rng) {
                    left.apply_part(change, run);
                }
            } else if kept {
                left.apply(change);
            }
        }
        left
    }
}

/// The changes that a sync covers, and those below them: there is one cache, so that what was
/// overwritten in it cannot come back over what is durable.
fn with_overlapped(covered: &[u64], pending: &[(u64, Change)]) -> BTreeSet<u64> {
    let mut durable: Vec<&(u64, Change)> = Vec::new();
    for change in pending.iter().rev() {
        let is_covered = covered.binary_search(&change.0).is_ok();
        if is_covered || durable.iter().any(|above| above.1.overlaps(&change.1)) {
            durable.push(change);
        }
    }
    durable.iter().map(|(number, _)| *number).collect()
}

impl Cache {
    pub(super) fn new(image: Image) -> Self {
        Self {
            current: image.clone(),
            ledger: Ledger::new(image),
            completed: Vec::new(),
            recorder: None,
        }
    }

    pub(super) fn current(&self) -> &Image {
        &self.current
    }

    /// Tells `recorder` of all that happens from now on; what a power cut would leave of what
    /// happened before.
    pub(super) fn record(&mut self, recorder: Recorder) -> Ledger {
        self.recorder = Some(recorder);
        self.ledger.clone()
    }

    fn happened(&mut self, event: Event) {
        self.ledger.happened(&event);
        if let Some(recorder) = &self.recorder {
            recorder.record(event);
        }
    }

    /// Applies a change for readers, and returns its number.
    pub(super) fn apply(&mut self, change: Change) -> u64 {
        let number = self.ledger.next;
        self.current.apply(&change);
        self.happened(Event::Applied(change));
        number
    }

    /// Applies some sectors of a change that fails. They are in the cache like others: the next sync
    /// makes them durable, so that they never come back over what is written later.
    pub(super) fn apply_torn(&mut self, change: &Change, rng: &mut Rng) {
        for run in change.torn(rng) {
            let (offset, len) = (run.start, run.end - run.start);
            let piece = match change {
                Change::Write {
                    offset: start,
                    bytes,
                } => {
                    let index = |n: u64| usize::try_from(n - start).expect("within the bytes");
                    let bytes = bytes[index(run.start)..index(run.end)].into();
                    Change::Write { offset, bytes }
                }
                Change::Zero { unmap, .. } => Change::Zero {
                    offset,
                    len,
                    unmap: *unmap,
                },
                Change::SetLen { .. } => change.clone(),
            };
            let number = self.apply(piece);
            self.completed(number);
        }
    }

    pub(super) fn completed(&mut self, number: u64) {
        let at = self.completed.partition_point(|other| *other < number);
        self.completed.insert(at, number);
    }

    /// The changes that a sync covers that begins now.
    pub(super) fn completed_so_far(&self) -> Vec<u64> {
        self.completed.clone()
    }

    /// Makes changes durable.
    pub(super) fn sync(&mut self, covered: Vec<u64>) {
        self.completed
            .retain(|number| covered.binary_search(number).is_err());
        self.happened(Event::Synced(covered));
    }

    /// What Linux does when a sync fails: of the changes, some are durable, and the others are
    /// never tried again, though they can still be read.
    pub(super) fn fail_sync(&mut self, covered: Vec<u64>, rng: &mut Rng) {
        let (kept, lost): (Vec<u64>, Vec<u64>) = covered.into_iter().partition(|_| rng.coin());
        self.completed
            .retain(|number| lost.binary_search(number).is_err());
        self.sync(kept);
        self.happened(Event::Lost(lost));
    }

    /// The content after a power cut.
    pub(super) fn power_cut(&self, rng: &mut Rng) -> Image {
        self.ledger.power_cut(rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Buffers;

    fn write(byte: u8) -> Change {
        Change::Write {
            offset: 0,
            bytes: [byte; 512].into(),
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
        cache.sync(covered);
        assert_eq!(first_byte(cache.current()), 2);
        assert_eq!(after_cuts(&cache), [1, 2]);
        cache.sync(cache.completed_so_far());
        assert_eq!(after_cuts(&cache), [2]);
    }

    #[test]
    fn what_was_overwritten_does_not_come_back_over_what_is_durable() {
        let mut cache = Cache::new(Image::new(4096));
        cache.apply(write(1));
        cache.apply(Change::SetLen { size_bytes: 100 });
        let last = cache.apply(write(3));
        // The others never end, and so no sync covers them by itself.
        cache.completed(last);
        cache.sync(cache.completed_so_far());
        assert_eq!(after_cuts(&cache), [3]);
        cache.apply(write(4));
        assert_eq!(after_cuts(&cache), [3, 4]);
    }

    #[test]
    fn failed_sync_may_lose_changes_for_good() {
        let outcomes: Vec<_> = (0..20)
            .map(|seed| {
                let mut cache = Cache::new(Image::new(4096));
                let number = cache.apply(write(1));
                cache.completed(number);
                cache.fail_sync(vec![number], &mut Rng::new(seed));
                cache.sync(cache.completed_so_far());
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
