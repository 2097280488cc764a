//! Cutting the power at every step of what was recorded.

use std::cell::Cell;
use std::io::{self, Write as _};
use std::thread;

use super::history::{Event, History};
use crate::SimulatedStorage;
use crate::rng::Rng;
use crate::storage::Recording;

/// How many ways to lose what was not durable are tried at each step.
const CUTS_PER_STEP: u64 = 3;
/// So many steps before a cut are told if what is left of it is wrong.
const STEPS_TOLD: usize = 60;

/// Cuts the power at every step, and has `look` see what is left of the disks, and what may be there.
/// How many cuts these were.
pub(crate) fn try_cuts(
    mut recording: Recording,
    log: Vec<(usize, Event)>,
    mut history: History,
    seed: u64,
    look: impl Fn(Vec<SimulatedStorage>, &History, &mut Rng),
) -> u64 {
    let mut events = log.into_iter().peekable();
    let mut rng = Rng::new(seed);
    let mut cuts = 0;
    for steps in 0..=recording.steps() {
        while let Some((_, event)) = events.next_if(|(at, _)| *at <= steps) {
            history.apply(&event);
        }
        for _ in 0..CUTS_PER_STEP {
            let left = recording.power_cut(steps, rng.next());
            let _moment = Moment {
                recording: &recording,
                steps,
            };
            look(left, &history, &mut rng);
            cuts += 1;
        }
    }
    cuts
}

/// Cuts the power at some step of what was recorded; what is left of the disks.
pub(crate) fn cut_somewhere(mut recording: Recording, rng: &mut Rng) -> Vec<SimulatedStorage> {
    let steps = rng.index(recording.steps() + 1);
    recording.power_cut(steps, rng.next())
}

/// Says when the power was cut, if that was too much.
struct Moment<'a> {
    recording: &'a Recording,
    steps: usize,
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let last = self.steps.saturating_sub(STEPS_TOLD);
            for step in last..self.steps {
                eprintln!("step {step}: {}", self.recording.describe(step));
            }
            eprintln!("power cut after step {}", self.steps);
        }
    }
}

/// What was tried.
#[derive(Default)]
pub(crate) struct Tally {
    seeds: Cell<Option<(u64, u64)>>,
    cuts: Cell<u64>,
}

impl Tally {
    pub(crate) fn add(&self, seed: u64, cuts: u64) {
        let first = self.seeds.get().map_or(seed, |(first, _)| first);
        self.seeds.set(Some((first, seed)));
        self.cuts.set(self.cuts.get() + cuts);
    }

    /// Prints it, though the test succeeds: `what` was tried.
    pub(crate) fn print(&self, what: &str) {
        let (first, last) = self.seeds.get().unwrap_or_default();
        let cuts = self.cuts.get();
        writeln!(
            io::stdout(),
            "{what}seeds {first} to {last}: {cuts} power cuts"
        )
        .unwrap();
    }
}
