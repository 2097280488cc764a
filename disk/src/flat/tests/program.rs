//! Random programs.

use std::ops::Range;

use super::rig::Rig;
use crate::rng::Rng;

/// What a program does next, after all before it is done.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// All at the same time, each one after the other.
    Batch(Vec<Vec<Action>>),
    /// Changes the size to so many sectors.
    Resize(u64),
    /// Names the base again.
    SetBase,
    /// Moves all that the image holds to its base.
    Commit,
    /// Takes a snapshot.
    Snapshot,
    /// Goes back to one of the snapshots, if there are any.
    Apply(usize),
    /// Deletes one of the snapshots, if there are any.
    Delete(usize),
    /// Closes the image and opens it again.
    Reopen,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Read(Range<usize>),
    Write(Range<usize>),
    Zero { sectors: Range<usize>, unmap: bool },
    Discard(Range<usize>),
    Flush,
}

/// Draws programs for an image. A program begins as its longer ones do.
pub(super) struct Generator {
    rng: Rng,
    block_sectors: u64,
    sectors_max: u64,
    commits: bool,
    snapshots: bool,
    /// Whether there are many flushes.
    flushes: bool,
}

impl Generator {
    pub(super) fn new(rig: &Rig, seed: u64) -> Self {
        Self {
            rng: Rng::new(seed ^ 0x51A1),
            block_sectors: 1 << (rig.block_bits - 9),
            sectors_max: rig.sectors().len() as u64,
            commits: false,
            snapshots: rig.snapshots_max() > 0,
            flushes: seed.is_multiple_of(3),
        }
    }

    /// Programs also write to the base, which power cuts know nothing of.
    pub(super) fn with_commits(self) -> Self {
        Self {
            commits: true,
            ..self
        }
    }

    /// The next step, on a disk of so many sectors.
    pub(super) fn step(&mut self, size_sectors: u64) -> Step {
        match self.rng.below(20) {
            0 => Step::Reopen,
            1 => Step::Resize(1 + self.rng.below(self.sectors_max)),
            2 => Step::SetBase,
            3 if self.commits => Step::Commit,
            4 | 5 if self.snapshots => Step::Snapshot,
            6 if self.snapshots => Step::Apply(self.rng.index(4)),
            7 if self.snapshots => Step::Delete(self.rng.index(4)),
            _ => self.batch(size_sectors),
        }
    }

    fn batch(&mut self, size_sectors: u64) -> Step {
        let tasks = 1 + self.rng.index(6);
        let mut at = self.rng.below(size_sectors);
        let mut batch = Vec::new();
        for _ in 0..tasks {
            let range = self.range(at, size_sectors);
            at = match self.rng.below(4) {
                0 => self.rng.below(size_sectors),
                // Often the same block as the one before.
                _ => range.end as u64 % size_sectors,
            };
            batch.push(self.task(&range));
        }
        Step::Batch(batch)
    }

    fn task(&mut self, range: &Range<usize>) -> Vec<Action> {
        let mut task = Vec::new();
        for _ in 0..=self.rng.index(3) {
            task.push(self.action(range.clone()));
            if self.flushes && self.rng.coin() {
                task.push(Action::Flush);
            }
        }
        task
    }

    fn action(&mut self, sectors: Range<usize>) -> Action {
        match self.rng.below(24) {
            0..=11 => Action::Write(sectors),
            12..=15 => Action::Read(sectors),
            16..=18 => Action::Zero {
                sectors,
                unmap: self.rng.coin(),
            },
            19..=21 => Action::Discard(sectors),
            _ => Action::Flush,
        }
    }

    /// A range from `at` on; half of them are made of whole blocks.
    fn range(&mut self, at: u64, size_sectors: u64) -> Range<usize> {
        let len = match self.rng.below(8) {
            0..=2 => 1 + self.rng.below(8),
            3..=5 => 1 + self.rng.below(self.block_sectors),
            _ => self.block_sectors * (1 + self.rng.below(6)),
        };
        let (mut start, mut end) = (at, at + len);
        if self.rng.coin() {
            start -= start % self.block_sectors;
            end = end.next_multiple_of(self.block_sectors);
        }
        let index = |n: u64| usize::try_from(n).expect("small");
        index(start)..index(end.min(size_sectors))
    }
}
