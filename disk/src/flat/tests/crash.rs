//! The power is cut at every step of random programs, and the image looked at.

use super::faults::fail_some_writes;
use super::program::Generator;
use super::rig::{Rig, sectors_of};
use super::run::Run;
use crate::rng::Rng;
use crate::storage::Recording;
use crate::test_support::content::{bytes_of, stamp_of};
use crate::test_support::history::History;
use crate::test_support::power_cuts::{Tally, cut_somewhere, try_cuts};
use crate::test_support::seeded;
use crate::{Backend, Buffers, Disk, Executor, Order, Repair, Request, SimulatedStorage};

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
    for (sector, stamp) in sectors_of(&disk).await.into_iter().enumerate() {
        if let Err(allowed) = history.check_cut(sector, stamp) {
            panic!("sector {sector} has {stamp:#x}, not one of {allowed:x?}");
        }
    }
    disk.close().await.unwrap();
    rig.look_at_snapshots(history).await;
    if rng.below(8) == 0 {
        check_use(rig, rng).await;
        rig.look_at_snapshots(history).await;
    }
    if rng.below(4) == 0 {
        go_back(rig, history, rng).await;
    }
}

/// The disk can be made what it was at any snapshot.
async fn go_back(rig: &Rig, history: &History, rng: &mut Rng) {
    let disk = rig.open().await.unwrap();
    let snapshots = disk.snapshots();
    if !snapshots.is_empty() {
        let name = &snapshots[rng.index(snapshots.len())].name;
        disk.apply_snapshot(name).await.unwrap();
        let found = sectors_of(&disk).await;
        let expected = &history.snapshots()[name].stamps[..found.len()];
        assert!(found == expected, "{name}: {found:x?}, not {expected:x?}");
        disk.delete_snapshot(name).await.unwrap();
        let found = sectors_of(&disk).await;
        assert!(found == expected, "deleted: {found:x?}, not {expected:x?}");
    }
    disk.close().await.unwrap();
    let report = rig.check().await;
    assert_eq!((report.corruptions, report.check_errors), (0, 0));
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

/// Cuts the power again while the image is recovered.
fn cut_recovery(executor: &Executor, rig: &Rig, rng: &mut Rng) -> Rig {
    let recording = Recording::start(&[&rig.image]);
    executor.run(rig.recover());
    rig.after_cut(only(cut_somewhere(recording, rng)))
}

/// The one disk that was recorded.
fn only(disks: Vec<SimulatedStorage>) -> SimulatedStorage {
    disks.into_iter().next().expect("there is one disk")
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
    let history = History::new(&rig.initial(), rig.size_sectors);
    try_cuts(recording, log, history, seed, |left, history, rng| {
        let mut rig = rig.after_cut(only(left));
        if rng.below(3) == 0 {
            rig = cut_recovery(&executor, &rig, rng);
        }
        executor.run(look(&rig, history, rng));
    })
}

#[test]
fn power_cuts_lose_nothing_that_was_flushed() {
    let tally = Tally::default();
    seeded(200, |seed| tally.add(seed, run_and_cut(seed, None)));
    tally.print("flat: ");
}

/// The host has failed before: nothing of that is left that a power cut could bring to light.
#[test]
fn power_cuts_after_errors_lose_nothing_that_was_flushed() {
    let tally = Tally::default();
    seeded(60, |seed| {
        tally.add(seed, run_and_cut(seed, Some(fail_some_writes)));
    });
    tally.print("flat: after errors, ");
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
