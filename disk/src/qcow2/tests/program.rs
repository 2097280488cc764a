//! Random programs.

use std::ops::Range;

use super::geometry::{Geometry, pick};
use crate::qcow2::Preallocation;
use crate::rng::Rng;

/// What a program does next, after all before it is done.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// All at the same time.
    Batch(Vec<Task>),
    /// Takes a snapshot.
    Snapshot,
    /// Goes back to one of the snapshots, if there are any.
    Apply(usize),
    /// Deletes one.
    Delete(usize),
    /// Changes the size to so many sectors.
    Resize(u64),
    /// Names the backing file again.
    SetBacking,
    /// Moves all that the image holds to its backing file, if it has one and no snapshots.
    Commit,
    /// Closes the image and opens it again.
    Reopen,
}

/// One after the other.
pub(super) type Task = Vec<Action>;

/// Sectors count from 0 within what the program uses of the disk.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Read(Range<usize>),
    Write(Range<usize>),
    /// Writes what sectors elsewhere have.
    Again {
        sectors: Range<usize>,
        from: usize,
    },
    /// Writes what is nowhere else.
    Unique(Range<usize>),
    /// Reads what is written elsewhere next.
    ReadToCopy(Range<usize>),
    /// Whole clusters, or the disk's last.
    Compressed(Range<usize>),
    Zero {
        sectors: Range<usize>,
        unmap: bool,
    },
    Discard(Range<usize>),
    Preallocate(Range<usize>, Preallocation),
    Flush,
}

/// Draws programs for a geometry. A program begins as its longer ones do.
pub(super) struct Generator<'a> {
    geometry: &'a Geometry,
    rng: Rng,
    size_sectors: u64,
    commits: bool,
    /// Whether there are many flushes.
    flushes: bool,
}

impl<'a> Generator<'a> {
    pub(super) fn new(geometry: &'a Geometry, seed: u64) -> Self {
        Self {
            geometry,
            rng: Rng::new(seed ^ 0x51A1),
            size_sectors: geometry.size_sectors(),
            commits: false,
            flushes: seed.is_multiple_of(3),
        }
    }

    /// Programs also write to the backing file, which power cuts know nothing of.
    pub(super) fn with_commits(self) -> Self {
        Self {
            commits: true,
            ..self
        }
    }

    pub(super) fn step(&mut self) -> Step {
        match self.rng.below(26) {
            0 => Step::Reopen,
            1 if self.geometry.options.data_file.is_none() => Step::Snapshot,
            2 => Step::Apply(self.rng.index(16)),
            3 => Step::Delete(self.rng.index(16)),
            4 => self.resize(),
            5 => Step::SetBacking,
            6 if self.commits => Step::Commit,
            _ => self.batch(),
        }
    }

    fn resize(&mut self) -> Step {
        let windows = &self.geometry.windows;
        let end = windows.last().expect("there is one").clone();
        let sectors = 1 + end.start + self.rng.below(end.end - end.start);
        let to = sectors.min(end.end);
        Step::Resize(to)
    }

    /// What the generator cannot know, as a program may go back to a snapshot of another size.
    pub(super) fn set_size(&mut self, sectors: u64) {
        self.size_sectors = sectors;
    }

    fn batch(&mut self) -> Step {
        let tasks = 1 + self.rng.index(6);
        if self.rng.below(6) == 0 {
            // Anywhere, also where another one is.
            let ranges: Vec<_> = (0..tasks).map(|_| self.range()).collect();
            return Step::Batch(ranges.into_iter().map(|range| self.task(range)).collect());
        }
        let mut at = self.range().start;
        let mut batch = Vec::new();
        for _ in 0..tasks {
            let end = at + self.len();
            if let Some(range) = self.clip(at..end) {
                batch.push(self.task(range));
            }
            // Often the same cluster as the one before.
            at = end
                + if self.rng.coin() {
                    0
                } else {
                    self.rng.index(40)
                };
        }
        Step::Batch(batch)
    }

    fn task(&mut self, range: Range<usize>) -> Task {
        let mut task = Task::new();
        for _ in 0..=self.rng.index(3) {
            task.push(self.action(range.clone()));
            if self.flushes && self.rng.coin() {
                task.push(Action::Flush);
            }
        }
        task
    }

    fn action(&mut self, sectors: Range<usize>) -> Action {
        if self.geometry.dedup_bytes.is_some()
            && self.rng.coin()
            && let Some(action) = self.sharing(sectors.clone())
        {
            return action;
        }
        match self.rng.below(33) {
            0 => Action::Preallocate(sectors, self.preallocation()),
            1..=14 => Action::Write(sectors),
            15..=18 => Action::Read(sectors),
            19..=22 => Action::Zero {
                sectors,
                unmap: self.rng.coin(),
            },
            23..=24 => Action::Discard(sectors),
            25..=26 => Action::Flush,
            _ => match self.whole_cluster(&sectors) {
                Some(cluster) => Action::Compressed(cluster),
                None => Action::Write(sectors),
            },
        }
    }

    /// What concerns data that is alike.
    fn sharing(&mut self, sectors: Range<usize>) -> Option<Action> {
        let (window, base) = self.window_of(sectors.start)?;
        let cluster = 1_usize << (self.geometry.options.cluster_bits - 9);
        let len = usize::try_from(window.end - window.start).expect("small");
        // As far from the start of a cluster as what is written.
        let first = (sectors.start - base) % cluster;
        let places = (len - first).checked_sub(sectors.len())? / cluster;
        Some(match self.rng.below(12) {
            0 => Action::Unique(sectors),
            1..=2 => Action::ReadToCopy(sectors),
            _ => {
                let from = base + first + self.rng.index(places + 1) * cluster;
                Action::Again { sectors, from }
            }
        })
    }

    fn preallocation(&mut self) -> Preallocation {
        use Preallocation::{Falloc, Full, Metadata};
        *pick(&mut self.rng, &[Metadata, Falloc, Full])
    }

    /// How long a change is, in sectors.
    fn len(&mut self) -> usize {
        let cluster = 1_usize << (self.geometry.options.cluster_bits - 9);
        match self.rng.below(16) {
            0..=5 => 1 + self.rng.index(8),
            6..=9 => 1 + self.rng.index(cluster),
            10..=14 => cluster + self.rng.index(4 * cluster),
            _ => 1 + self.rng.index(600),
        }
    }

    fn range(&mut self) -> Range<usize> {
        loop {
            let at = self.rng.index(self.geometry.sector_count());
            let end = at + self.len();
            if let Some(range) = self.clip(at..end) {
                return range;
            }
        }
    }

    /// What of a range is in its first sector's window and on the disk. Half of the ranges are
    /// made of whole clusters.
    fn clip(&mut self, range: Range<usize>) -> Option<Range<usize>> {
        let (window, base) = self.window_of(range.start)?;
        let cluster = 1_u64 << (self.geometry.options.cluster_bits - 9);
        let mut start = window.start + (range.start - base) as u64;
        let mut end = start + range.len() as u64;
        if self.rng.coin() {
            start = start / cluster * cluster;
            end = end.next_multiple_of(cluster);
        }
        let end = end.min(window.end).min(self.size_sectors);
        let start = start.max(window.start);
        let index = |sector: u64| base + usize::try_from(sector - window.start).expect("small");
        (start < end).then(|| index(start)..index(end))
    }

    /// A window, and the number of its first sector.
    fn window_of(&self, sector: usize) -> Option<(Range<u64>, usize)> {
        let mut base = 0;
        for window in &self.geometry.windows {
            let len = usize::try_from(window.end - window.start).expect("small");
            if sector < base + len {
                return Some((window.clone(), base));
            }
            base += len;
        }
        None
    }

    /// A cluster that lies in the range as a whole.
    fn whole_cluster(&mut self, range: &Range<usize>) -> Option<Range<usize>> {
        if self.geometry.options.data_file.is_some() {
            return None;
        }
        let (window, base) = self.window_of(range.start)?;
        let cluster = 1_u64 << (self.geometry.options.cluster_bits - 9);
        let start = window.start + (range.start - base) as u64;
        let end = start + range.len() as u64;
        let whole: Vec<_> = (start.div_ceil(cluster)..end.div_ceil(cluster))
            .map(|n| n * cluster..(n + 1) * cluster)
            .map(|range| range.start..range.end.min(self.size_sectors))
            .filter(|range| range.end <= end)
            .collect();
        if whole.is_empty() {
            return None;
        }
        let chosen = pick(&mut self.rng, &whole).clone();
        let index = |sector: u64| base + usize::try_from(sector - window.start).expect("small");
        Some(index(chosen.start)..index(chosen.end))
    }
}
