//! The power is cut at every step of random programs, and the image looked at.

use std::cell::Cell;
use std::io::{self, Write as _};
use std::thread;

use super::faults::fail_some_writes;
use super::program::Generator;
use super::rig::Rig;
use super::run::Run;
use crate::rng::Rng;
use crate::storage::Recording;
use crate::test_support::content::{SECTOR_BYTES, bytes_of, stamp_of};
use crate::test_support::history::{Event, History};
use crate::test_support::seeded;
use crate::{Backend, Buffers, Disk, Executor, Order, Repair, Request};

/// How many ways to lose what was not durable are tried at each step.
const CUTS_PER_STEP: u64 = 3;
const STEPS: u64 = 12;

/// Looks at what a power cut left.
pub(super) async fn look(rig: &Rig, history: &History, rng: &mut Rng) {
    rig.recover().await;
    let report = rig.check().await;
    assert_eq!(
        (report.corruptions, report.check_errors),
        (0, 0),
        "{report:#?}"
    );
    let disk = rig.open().await.unwrap();
    let size = disk.properties().size_bytes / 512;
    let sizes = history.sizes();
    assert!(
        sizes.contains(&size),
        "the size is {size}, not of {sizes:?}"
    );
    let content = Buffers::zeroed(usize::try_from(size * 512).unwrap());
    let read = Request::read(0, content.clone());
    disk.submit(read).await.unwrap();
    for (sector, content) in content.to_vec().chunks(SECTOR_BYTES).enumerate() {
        let stamp = stamp_of(content)
            .unwrap_or_else(|byte| panic!("sector {sector} is torn at byte {byte}"));
        if let Err(allowed) = history.check_cut(sector, stamp) {
            panic!("sector {sector} has {stamp:#x}, not one of {allowed:x?}");
        }
    }
    disk.close().await.unwrap();
    if rng.below(8) == 0 {
        check_use(rig, rng).await;
    }
}

/// The image can be used as if nothing had happened, and what is lost of it can be had back.
async fn check_use(rig: &Rig, rng: &mut Rng) {
    let disk = rig.open().await.unwrap();
    let offset = rng.below(disk.properties().size_bytes / 512) * 512;
    let data = Buffers::from_vec(bytes_of(&[1]));
    let write = Request::write(offset, data.clone());
    disk.submit(write).await.unwrap();
    disk.close().await.unwrap();
    crate::flat::check(&rig.image, Repair::Leaks).await.unwrap();
    let report = rig.check().await;
    assert_eq!(report.exit_status(), 0, "{report:#?}");
    let disk = rig.open().await.unwrap();
    let read = Request::read(offset, data.clone());
    disk.submit(read).await.unwrap();
    assert_eq!(stamp_of(&data.to_vec()), Ok(1));
}

/// Looks at the power cuts of a program; how many these were.
fn try_cuts(
    executor: &Executor,
    rig: &Rig,
    mut recording: Recording,
    log: Vec<(usize, Event)>,
    seed: u64,
) -> u64 {
    let mut history = History::new(&rig.initial(), rig.size_sectors);
    let mut events = log.into_iter().peekable();
    let mut rng = Rng::new(seed);
    let mut cuts = 0;
    for steps in 0..=recording.steps() {
        while let Some((_, event)) = events.next_if(|(at, _)| *at <= steps) {
            history.apply(&event);
        }
        for _ in 0..CUTS_PER_STEP {
            let left = recording.power_cut(steps, rng.next());
            let mut rig = rig.after_cut(left.into_iter().next().expect("there is one disk"));
            let _moment = Moment {
                recording: &recording,
                steps,
            };
            if rng.below(3) == 0 {
                rig = cut_recovery(executor, &rig, &mut rng);
            }
            executor.run(look(&rig, &history, &mut rng));
            cuts += 1;
        }
    }
    cuts
}

/// Cuts the power again while the image is recovered.
fn cut_recovery(executor: &Executor, rig: &Rig, rng: &mut Rng) -> Rig {
    let mut recording = Recording::start(&[&rig.image]);
    executor.run(rig.recover());
    let steps = rng.index(recording.steps() + 1);
    let left = recording.power_cut(steps, rng.next());
    rig.after_cut(left.into_iter().next().expect("there is one disk"))
}

/// Says when the power was cut, if that was too much.
struct Moment<'a> {
    recording: &'a Recording,
    steps: usize,
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let last = self.steps.saturating_sub(40);
            for step in last..self.steps {
                eprintln!("step {step}: {}", self.recording.describe(step));
            }
            eprintln!("power cut after step {}", self.steps);
        }
    }
}

/// Runs a program, and looks at its power cuts. `errors` may have the disk fail.
fn run_and_cut(seed: u64, errors: Option<fn(&Rig, &mut Rng)>) -> u64 {
    let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
    let (rig, recording, log) = executor.run(async {
        let rig = Rig::random(seed).await;
        let recording = Recording::start(&[&rig.image]);
        let run = Run::start(&rig, || recording.steps()).await;
        if let Some(errors) = errors {
            errors(&rig, &mut Rng::new(seed));
            run.witness.tolerate_errors(true);
        }
        let mut generator = Generator::new(&rig, seed);
        run.steps(&mut generator, STEPS).await;
        if errors.is_none() {
            run.close().await;
        }
        let log = run.into_log();
        (rig, recording, log)
    });
    try_cuts(&executor, &rig, recording, log, seed)
}

/// Runs seeds, and prints how many cuts that were, though the test succeeds.
fn try_seeds(seeds: u64, when: &str, errors: Option<fn(&Rig, &mut Rng)>) {
    let (last, cuts) = (Cell::new(0), Cell::new(0));
    seeded(seeds, |seed| {
        last.set(seed);
        cuts.set(cuts.get() + run_and_cut(seed, errors));
    });
    let (last, cuts) = (last.get(), cuts.get());
    writeln!(
        io::stdout(),
        "flat: {when}seeds to {last}: {cuts} power cuts"
    )
    .unwrap();
}

#[test]
fn power_cuts_lose_nothing_that_was_flushed() {
    try_seeds(200, "", None);
}

/// The host has failed before: nothing of that is left that a power cut could bring to light.
#[test]
fn power_cuts_after_errors_lose_nothing_that_was_flushed() {
    try_seeds(60, "after errors, ", Some(fail_some_writes));
}

/// A journal's recovery has nothing to drop twice, whatever it finds.
#[test]
fn recovery_is_the_same_when_it_is_repeated() {
    seeded(20, |seed| {
        super::rig::simulated(seed, async || {
            let stamps = vec![2; 64];
            let rig = Rig::create(seed, 64, 12, stamps, Order::Journal, false).await;
            let disk = rig.open().await.unwrap();
            let data = Buffers::from_vec(bytes_of(&[5]));
            for sector in [0, 9, 30] {
                let write = Request::write(sector * 512, data.clone());
                disk.submit(write).await.unwrap();
                disk.submit(Request::flush()).await.unwrap();
            }
            let left = rig.after_cut(rig.image.power_cut());
            left.recover().await;
            let once = left.image.to_bytes();
            left.recover().await;
            assert!(once == left.image.to_bytes());
            let disk = left.open().await.unwrap();
            disk.submit(Request::read(30 * 512, data.clone()))
                .await
                .unwrap();
            assert_eq!(stamp_of(&data.to_vec()), Ok(5));
        });
    });
}
