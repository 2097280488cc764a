//! The power is cut at every step of random programs, for the disk and the cache file at once.

use super::program::{Run, look};
use super::rig::Rig;
use crate::rng::Rng;
use crate::storage::{Fault, FaultyOperation, Recording};
use crate::test_support::history::History;
use crate::test_support::power_cuts::{Tally, cut_somewhere, try_cuts};
use crate::test_support::seeded;
use crate::{Backend, Disk, Executor, Request};

const STEPS: u64 = 8;

/// Some writes and reads fail, of the disk or of the cache file.
fn fail_some(rig: &Rig, rng: &mut Rng) {
    let storages = rig.storages();
    for _ in 0..=rng.below(4) {
        let operations = [
            FaultyOperation::Write,
            FaultyOperation::Write,
            FaultyOperation::Read,
        ];
        let fault = Fault::new(operations[rng.index(3)], libc::EIO)
            .after(rng.below(60))
            .times(1 + rng.below(2));
        storages[rng.index(storages.len())].inject(fault);
    }
}

fn run_and_cut(seed: u64, errors: bool, in_file: bool) -> u64 {
    let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
    let (rig, recording, log) = executor.run(async {
        let rig = Rig::random(seed, in_file);
        if rig.file.is_some() {
            // It was made before anything was promised.
            rig.open().await.unwrap().close().await.unwrap();
        }
        let recording = Recording::start(&rig.storages());
        let run = Run::start(&rig, || recording.steps()).await;
        if errors {
            fail_some(&rig, &mut Rng::new(seed));
            run.witness.tolerate_errors(true);
        }
        run.steps(&mut Rng::new(seed), STEPS).await;
        if !errors {
            run.close().await;
        }
        let log = run.into_log();
        (rig, recording, log)
    });
    let history = History::new(&rig.initial(), rig.size_sectors);
    try_cuts(recording, log, history, seed, |left, history, rng| {
        let mut rig = rig.after_cut(left);
        if rng.below(3) == 0 {
            // The power is cut again while the cache is opened, or while all goes home.
            let recording = Recording::start(&rig.storages());
            executor.run(async {
                let disk = rig.open().await.unwrap();
                if rng.coin() {
                    let _ = disk.submit(Request::flush()).await;
                    disk.close().await.unwrap();
                }
            });
            rig = rig.after_cut(cut_somewhere(recording, rng));
        }
        executor.run(async {
            let disk = rig.open().await.unwrap();
            look(&disk, history).await;
            disk.close().await.unwrap();
            let alone = crate::Raw::new(rig.disk.clone()).unwrap();
            look(&alone, history).await;
        });
    })
}

#[test]
fn power_cuts_lose_nothing_that_was_flushed() {
    let tally = Tally::default();
    seeded(150, |seed| {
        tally.add(seed, run_and_cut(seed, false, seed % 6 > 0));
    });
    tally.print("cache: ");
}

/// The host has failed before: nothing of that is left that a power cut could bring to light.
#[test]
fn power_cuts_after_errors_lose_nothing_that_was_flushed() {
    let tally = Tally::default();
    seeded(60, |seed| tally.add(seed, run_and_cut(seed, true, true)));
    tally.print("cache: after errors, ");
}
