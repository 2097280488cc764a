//! What barriers promise about power cuts.

use std::cell::{Cell, RefCell};

use super::{Fault, FaultyOperation, Recording, SimulatedStorage, executor};
use crate::rng::Rng;
use crate::test_support::{join_all, seeded};
use crate::{BoxFuture, Buffers, Storage};

/// What each write has for itself.
const PIECE_BYTES: usize = 2048;
const TASKS: u64 = 4;
const STEPS: u64 = 12;

/// When something began and ended, in the order in which all of them did.
type Span = (u64, u64);

/// What a program did.
#[derive(Default)]
struct Log {
    now: Cell<u64>,
    /// The write of piece `n` is the one with index `n`; one that never ended has no end.
    writes: RefCell<Vec<Span>>,
    barriers: RefCell<Vec<Span>>,
    /// What comes after a failed sync says nothing about what came before.
    failed: Cell<bool>,
}

impl Log {
    fn tick(&self) -> u64 {
        self.now.set(self.now.get() + 1);
        self.now.get()
    }
}

async fn write(storage: &SimulatedStorage, log: &Log) {
    let index = log.writes.borrow().len();
    log.writes.borrow_mut().push((log.tick(), u64::MAX));
    let piece = Buffers::from_vec([1; PIECE_BYTES]);
    let offset = (index * PIECE_BYTES) as u64;
    if storage.write_at(offset, piece).await.is_ok() {
        log.writes.borrow_mut()[index].1 = log.tick();
    }
}

/// What a task does between its writes.
#[derive(Clone, Copy)]
struct Habits {
    barriers: bool,
    /// Rarely, and one may fail, which is the end.
    syncs: bool,
}

async fn program(storage: &SimulatedStorage, log: &Log, mut rng: Rng, habits: Habits) {
    let Habits { barriers, syncs } = habits;
    for _ in 0..STEPS {
        match rng.below(12) {
            _ if log.failed.get() => return,
            0 if syncs => log.failed.set(storage.sync().await.is_err()),
            1..4 if barriers => {
                let begin = log.tick();
                if storage.barrier().await.is_ok() {
                    log.barriers.borrow_mut().push((begin, log.tick()));
                }
            }
            _ => write(storage, log).await,
        }
    }
}

/// Whether a write is left though one is not that completed before a barrier before it. `ordered`
/// are the barriers.
fn is_disordered(left: &[u8], writes: &[Span], ordered: &[Span]) -> bool {
    let piece = |index: usize| {
        let bytes = left.chunks(PIECE_BYTES).nth(index).unwrap_or(&[]);
        let ones: usize = bytes.iter().map(|byte| usize::from(*byte == 1)).sum();
        (ones > 0, ones == PIECE_BYTES)
    };
    ordered.iter().any(|(begin, end)| {
        let pieces = || writes.iter().enumerate();
        let later_is_left = pieces().any(|(n, write)| write.0 > *end && piece(n).0);
        let earlier_is_not = pieces().any(|(n, write)| write.1 < *begin && !piece(n).1);
        later_is_left && earlier_is_not
    })
}

/// How many of the power cuts at all steps of a program leave a disorder.
fn disorders(seed: u64, barriers: bool) -> usize {
    let disk = SimulatedStorage::new(0, seed);
    if seed.is_multiple_of(3) {
        disk.inject(Fault::new(FaultyOperation::Sync, libc::EIO).after(seed % 4));
        disk.inject(Fault::new(FaultyOperation::Barrier, libc::EIO).after(seed % 5));
    }
    let mut recording = Recording::start(&[&disk]);
    let log = Log::default();
    let mut rng = Rng::new(seed);
    executor(seed).run(async {
        let task = |n| {
            let syncs = n == 0;
            let habits = Habits { barriers, syncs };
            Box::pin(program(&disk, &log, Rng::new(rng.next()), habits)) as BoxFuture<()>
        };
        join_all((0..TASKS).map(task)).await;
    });
    let (writes, mut ordered) = (log.writes.take(), log.barriers.take());
    if !barriers {
        // As if there had been one wherever a write ended.
        ordered = writes.iter().map(|write| (write.1, write.1)).collect();
    }
    let cuts = (0..=recording.steps()).flat_map(|steps| (0..4).map(move |cut| (steps, cut)));
    let is_disordered = |(steps, cut)| {
        let left = recording.power_cut(steps, cut).remove(0).to_bytes();
        is_disordered(&left, &writes, &ordered)
    };
    cuts.map(is_disordered).filter(|is| *is).count()
}

#[test]
fn power_cuts_leave_nothing_after_a_barrier_without_all_before_it() {
    seeded(40, |seed| assert_eq!(disorders(seed, true), 0));
}

#[test]
fn without_barriers_power_cuts_leave_any_order() {
    seeded(5, |seed| assert!(disorders(seed, false) > 0));
}

#[test]
fn barrier_makes_nothing_durable_and_lets_any_of_the_last_be_left() {
    let disk = SimulatedStorage::new(0, 1);
    executor(1).run(async {
        for (offset, ordered) in [(0, true), (512, true), (1024, false)] {
            let piece = Buffers::from_vec([1; 512]);
            disk.write_at(offset, piece).await.unwrap();
            if ordered {
                disk.barrier().await.unwrap();
            }
        }
    });
    assert_eq!(disk.counters().barriers, 2);
    let mut sizes: Vec<_> = (0..100).map(|_| disk.power_cut().size_bytes()).collect();
    sizes.sort_unstable();
    sizes.dedup();
    assert_eq!(sizes, [0, 512, 1024, 1536]);
}
