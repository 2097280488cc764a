//! The volatile cache of a simulated disk.

use super::change::Change;
use super::image::Image;
use super::ledger::{Event, Ledger};
use super::recording::Recorder;
use crate::rng::Rng;

/// The content as reads see it, and what of it a power cut would leave.
pub(super) struct Cache {
    current: Image,
    ledger: Ledger,
    /// Of the changes that are not durable, those that were reported done: a sync covers them.
    completed: Vec<u64>,
    recorder: Option<Recorder>,
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

    /// How many barriers have ended, for [`Cache::apply`] of a change that begins now.
    pub(super) fn barriers(&self) -> u64 {
        self.ledger.barriers()
    }

    /// Applies a change for readers, and returns its number. It began after so many barriers.
    pub(super) fn apply(&mut self, change: Change, after: u64) -> u64 {
        let number = self.ledger.next();
        self.current.apply(&change);
        self.happened(Event::Applied { change, after });
        number
    }

    /// Applies some sectors of a change that fails. They are in the cache like others: the next sync
    /// makes them durable, so that they never come back over what is written later.
    pub(super) fn apply_torn(&mut self, change: &Change, after: u64, rng: &mut Rng) {
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
            let number = self.apply(piece, after);
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

    /// Keeps the changes that begin from now on from being left without these.
    pub(super) fn barrier(&mut self, covered: Vec<u64>) {
        self.happened(Event::Ordered(covered));
    }

    /// What Linux does when a sync fails: of the changes, some are durable, and the others are
    /// never tried again, though they can still be read. Barriers hold all the same.
    pub(super) fn fail_sync(&mut self, covered: Vec<u64>, rng: &mut Rng) {
        let mut kept = covered.clone();
        kept.retain(|_| rng.coin());
        self.ledger.drop_disordered(&mut kept);
        let is_lost = |number: &u64| kept.binary_search(number).is_err();
        let lost: Vec<u64> = covered.into_iter().filter(is_lost).collect();
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
        let first = cache.apply(write(1), 0);
        assert!(cache.completed_so_far().is_empty());
        cache.completed(first);
        let covered = cache.completed_so_far();
        let second = cache.apply(write(2), 0);
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
        cache.apply(write(1), 0);
        cache.apply(Change::SetLen { size_bytes: 100 }, 0);
        let last = cache.apply(write(3), 0);
        // The others never end, and so no sync covers them by itself.
        cache.completed(last);
        cache.sync(cache.completed_so_far());
        assert_eq!(after_cuts(&cache), [3]);
        cache.apply(write(4), 0);
        assert_eq!(after_cuts(&cache), [3, 4]);
    }

    #[test]
    fn failed_sync_may_lose_changes_for_good() {
        let outcomes: Vec<_> = (0..20)
            .map(|seed| {
                let mut cache = Cache::new(Image::new(4096));
                let number = cache.apply(write(1), 0);
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
