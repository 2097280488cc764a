//! Random programs, and what comes of them.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::rig::Rig;
use crate::cache::Cached;
use crate::rng::Rng;
use crate::test_support::content::SECTOR_BYTES;
use crate::test_support::history::{Event, History};
use crate::test_support::{Witness, join_all, program_steps, seeded};
use crate::timer::sleep;
use crate::{Backend, Class, Disk, Executor, Request, SimulatedStorage};

const STEPS: u64 = 30;

enum Action {
    Read(Range<usize>),
    Write(Range<usize>),
    Zero { sectors: Range<usize>, unmap: bool },
    Discard(Range<usize>),
    Flush,
    Clear,
}

/// A program on a disk with a cache.
pub(super) struct Run<'a> {
    rig: &'a Rig,
    pub(super) witness: Witness<'a>,
    disk: RefCell<Rc<Cached<SimulatedStorage>>>,
}

impl<'a> Run<'a> {
    pub(super) async fn start(rig: &'a Rig, clock: impl Fn() -> usize + 'a) -> Self {
        let disk = rig.open().await.unwrap();
        let sectors = (0..rig.size_sectors).collect();
        Self {
            rig,
            witness: Witness::new(sectors, &rig.initial(), rig.size_sectors, clock),
            disk: RefCell::new(Rc::new(disk)),
        }
    }

    pub(super) fn disk(&self) -> Rc<Cached<SimulatedStorage>> {
        Rc::clone(&self.disk.borrow())
    }

    pub(super) fn into_log(self) -> Vec<(usize, Event)> {
        self.witness.into_log()
    }

    pub(super) async fn steps(&self, rng: &mut Rng, count: u64) {
        for _ in 0..program_steps(count) {
            match rng.below(16) {
                0 if !self.witness.is_tolerant() => self.reopen().await,
                1 => sleep(Duration::from_millis(rng.below(3000))).await.unwrap(),
                _ => self.batch(rng).await,
            }
            self.disk().shared.blocks.borrow().check();
        }
    }

    async fn batch(&self, rng: &mut Rng) {
        let mut at = rng.below(self.rig.size_sectors);
        let mut tasks = Vec::new();
        for _ in 0..=rng.index(5) {
            let range = self.range(at, rng);
            if rng.below(4) == 0 {
                at = rng.below(self.rig.size_sectors);
            }
            let actions: Vec<_> = (0..=rng.index(2)).map(|_| action(&range, rng)).collect();
            let class = Class::ALL[rng.index(6)];
            tasks.push(async move {
                for action in actions {
                    self.act(action, class).await;
                }
            });
        }
        join_all(tasks).await;
    }

    fn range(&self, at: u64, rng: &mut Rng) -> Range<usize> {
        let len = match rng.below(4) {
            0 => 1 + rng.below(7),
            1 => 8,
            _ => 1 + rng.below(60),
        };
        let (mut start, mut end) = (at, at + len);
        if rng.coin() {
            start -= start % 8;
            end = end.next_multiple_of(8);
        }
        let index = |n: u64| usize::try_from(n.min(self.rig.size_sectors)).unwrap();
        index(start)..index(end)
    }

    async fn act(&self, action: Action, class: Class) {
        let (disk, witness) = (self.disk(), &self.witness);
        let len = |sectors: &Range<usize>| (sectors.len() * SECTOR_BYTES) as u64;
        match action {
            Action::Read(range) => witness.read(&*disk, range).await,
            Action::Write(range) => {
                let (stamps, bytes) = witness.fresh(&range);
                let request = Request::write(witness.offset(range.start), bytes);
                let written = disk.submit(request.of_class(class));
                witness.change(range.start, stamps, true, written).await;
            }
            Action::Zero { sectors, unmap } => {
                let offset = witness.offset(sectors.start);
                let request = Request::write_zeroes(offset, len(&sectors), unmap);
                let stamps = vec![0; sectors.len()];
                let zeroed = disk.submit(request);
                witness.change(sectors.start, stamps, true, zeroed).await;
            }
            Action::Discard(range) => {
                let offset = witness.offset(range.start);
                let discarded = disk.submit(Request::discard(offset, len(&range)));
                let stamps = vec![0; range.len()];
                witness.change(range.start, stamps, false, discarded).await;
            }
            Action::Flush => drop(witness.durably(disk.submit(Request::flush())).await),
            Action::Clear => drop(witness.succeeded(disk.clear().await)),
        }
    }

    /// Closes it: then the disk stands alone.
    pub(super) async fn close(&self) {
        let disk = self.disk();
        let closed = self.witness.durably(disk.close()).await;
        assert!(closed, "cannot close");
        let found = self.rig.on_disk().await;
        let history = self.witness.history();
        for (sector, stamp) in found.into_iter().enumerate() {
            if let Err(allowed) = history.check_cut(sector, stamp) {
                panic!("sector {sector} has {stamp:#x}, not one of {allowed:x?}");
            }
        }
    }

    async fn reopen(&self) {
        self.close().await;
        let disk = self.rig.open().await.unwrap();
        self.disk.replace(Rc::new(disk));
    }

    pub(super) async fn finish(&self) {
        self.witness.read_all(&*self.disk()).await;
        self.reopen().await;
        self.witness.read_all(&*self.disk()).await;
        self.close().await;
    }
}

fn action(sectors: &Range<usize>, rng: &mut Rng) -> Action {
    let sectors = sectors.clone();
    match rng.below(24) {
        0..=9 => Action::Write(sectors),
        10..=16 => Action::Read(sectors),
        17 => Action::Zero {
            sectors,
            unmap: rng.coin(),
        },
        18 => Action::Discard(sectors),
        19 if rng.below(4) == 0 => Action::Clear,
        _ => Action::Flush,
    }
}

/// What is read is what was written, whatever is in flight.
#[test]
fn programs_find_what_they_wrote() {
    seeded(200, |seed| {
        let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
        executor.run(async {
            let rig = Rig::random(seed, seed % 3 > 0);
            let run = Run::start(&rig, || 0).await;
            run.steps(&mut Rng::new(seed), STEPS).await;
            run.finish().await;
        });
    });
}

/// What of a history may be there, on the disk as it is.
pub(super) async fn look(disk: &dyn Disk, history: &History) {
    for (sector, stamp) in super::rig::sectors_of(disk).await.into_iter().enumerate() {
        if let Err(allowed) = history.check_cut(sector, stamp) {
            panic!("sector {sector} has {stamp:#x}, not one of {allowed:x?}");
        }
    }
}
