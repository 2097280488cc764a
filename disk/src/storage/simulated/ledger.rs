//! What is durable on a simulated disk, and what a power cut may leave of the rest.

use std::collections::{BTreeMap, BTreeSet};

use super::change::Change;
use super::image::Image;
use crate::rng::Rng;

/// What happens to the content and its durability: all that matters at a power cut.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A change reached the cache that had begun after so many barriers had ended. Changes are
    /// numbered from 0 in the order in which they do.
    Applied { change: Change, after: u64 },
    /// A sync made the changes with these numbers, in ascending order, durable.
    Synced(Vec<u64>),
    /// A barrier ended, before whose beginning these changes had completed and were not durable.
    Ordered(Vec<u64>),
    /// A failed sync made sure that these changes are lost, though they can still be read.
    Lost(Vec<u64>),
}

/// What is durable, and what a power cut may leave or not.
#[derive(Clone)]
pub(super) struct Ledger {
    durable: Image,
    /// Changes that are not durable, in the order in which they were applied.
    pending: Vec<Pending>,
    /// How many changes there have been.
    next: u64,
    /// How many barriers there have been.
    barriers: u64,
    /// By the number of the barrier, counted from 0: the changes before it that are not durable. Of
    /// what began after it nothing may be left unless these are. Those without any do not matter.
    before: BTreeMap<u64, Vec<u64>>,
}

#[derive(Clone)]
struct Pending {
    number: u64,
    change: Change,
    /// How many barriers had ended when it began.
    after: u64,
}

impl Ledger {
    pub(super) fn new(image: Image) -> Self {
        Self {
            durable: image,
            pending: Vec::new(),
            next: 0,
            barriers: 0,
            before: BTreeMap::new(),
        }
    }

    /// The number of the next change.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// How many barriers have ended.
    pub(super) fn barriers(&self) -> u64 {
        self.barriers
    }

    pub(super) fn happened(&mut self, event: &Event) {
        match event {
            Event::Applied { change, after } => {
                self.pending.push(Pending {
                    number: self.next,
                    change: change.clone(),
                    after: *after,
                });
                self.next += 1;
            }
            Event::Synced(covered) => self.synced(covered),
            Event::Ordered(covered) => {
                // A sync may have come in between.
                let mut before = covered.clone();
                before.retain(|number| self.is_pending(*number));
                if !before.is_empty() {
                    self.before.insert(self.barriers, before);
                }
                self.barriers += 1;
            }
            Event::Lost(lost) => self
                .pending
                .retain(|pending| lost.binary_search(&pending.number).is_err()),
        }
    }

    fn is_pending(&self, number: u64) -> bool {
        let found = self.pending.binary_search_by_key(&number, |p| p.number);
        found.is_ok()
    }

    fn synced(&mut self, covered: &[u64]) {
        let Self {
            durable, pending, ..
        } = self;
        let durable_now = with_overlapped(covered, pending);
        pending.retain(|pending| {
            let is_durable = durable_now.contains(&pending.number);
            if is_durable {
                durable.apply(&pending.change);
            }
            !is_durable
        });
        self.before.retain(|_, changes| {
            changes.retain(|number| !durable_now.contains(number));
            !changes.is_empty()
        });
    }

    /// Takes out of these changes, in ascending order, those that a barrier keeps from being left
    /// without others that are not among them.
    pub(super) fn drop_disordered(&self, kept: &mut Vec<u64>) {
        for (barrier, changes) in &self.before {
            let is_kept = |number: &u64| kept.binary_search(number).is_ok();
            if !changes.iter().all(is_kept) {
                let began_after = self.pending.iter().filter(|change| change.after > *barrier);
                let numbers: BTreeSet<u64> = began_after.map(|change| change.number).collect();
                kept.retain(|number| !numbers.contains(number));
            }
        }
    }

    /// The content after a power cut: of each change that was not durable, all, nothing, or some
    /// sectors. Some cuts leave nearly all of the changes and some hardly any, for an order that
    /// was not kept shows best when one change is missing, or alone.
    ///
    /// The cut comes before one of the barriers or after the last: what began after that barrier is
    /// gone, and what is before an earlier one is there.
    pub(super) fn power_cut(&self, rng: &mut Rng) -> Image {
        let (first_gone, whole) = self.choose_barrier(rng);
        let kept_in_8 = [0, 1, 4, 4, 7, 8][rng.index(6)];
        let mut left = self.durable.clone();
        for Pending {
            number,
            change,
            after,
        } in &self.pending
        {
            if *after > first_gone {
                continue;
            }
            let kept = rng.below(8) < kept_in_8;
            if whole.contains(number) {
                left.apply(change);
            } else if (1..8).contains(&kept_in_8) && rng.below(3) == 0 {
                for run in change.torn(rng) {
                    left.apply_part(change, run);
                }
            } else if kept {
                left.apply(change);
            }
        }
        left
    }

    /// The number of the barrier before which the power is cut, and the changes before earlier ones.
    fn choose_barrier(&self, rng: &mut Rng) -> (u64, BTreeSet<u64>) {
        let mut whole = BTreeSet::new();
        let passed = rng.below(self.before.len() as u64 + 1);
        for (n, (barrier, changes)) in (0..).zip(&self.before) {
            // What a failed sync lost is never there again.
            if n == passed || !changes.iter().all(|number| self.is_pending(*number)) {
                return (*barrier, whole);
            }
            whole.extend(changes);
        }
        (u64::MAX, whole)
    }
}

/// The changes that a sync covers, and those below them: there is one cache, so that what was
/// overwritten in it cannot come back over what is durable.
fn with_overlapped(covered: &[u64], pending: &[Pending]) -> BTreeSet<u64> {
    let mut durable: Vec<&Pending> = Vec::new();
    for pending in pending.iter().rev() {
        let is_covered = covered.binary_search(&pending.number).is_ok();
        let is_below = |above: &&Pending| above.change.overlaps(&pending.change);
        if is_covered || durable.iter().any(is_below) {
            durable.push(pending);
        }
    }
    durable.iter().map(|pending| pending.number).collect()
}
