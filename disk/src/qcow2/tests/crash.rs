//! The power is cut at every step of random programs, and the image looked at.

use super::faults::fail_some_writes;
use super::geometry::{Geometry, pick};
use super::model::Trace;
use super::program::Generator;
use super::rig::{Image, Rig};
use super::run::Run;
use crate::Repair;
use crate::qcow2::{check, recover};
use crate::rng::Rng;
use crate::storage::Recording;
use crate::test_support::content::{SECTOR_BYTES, bytes_of, stamp_of};
use crate::test_support::history::{History, Snapshot};
use crate::test_support::power_cuts::{Tally, cut_somewhere, try_cuts};
use crate::test_support::{program_steps, seeded};
use crate::{Backend, Buffers, Disk, Error, Executor, Request};

const STEPS: u64 = 15;

/// Looks at what a power cut left.
pub(super) async fn look(rig: &Rig, history: &History, rng: &mut Rng) {
    recover(&rig.image).await.unwrap();
    let report = rig.check().await.unwrap();
    let leaks = if rig.geometry.is_journaled() {
        report.leaks
    } else {
        0
    };
    assert_eq!(
        (report.corruptions, report.check_errors, leaks),
        (0, 0, 0),
        "{report:#?}"
    );
    let disk = rig.open().await.unwrap();
    let size = disk.properties().size_bytes / 512;
    assert!(
        history.sizes().contains(&size),
        "the size is {size}, not one of {:?}",
        history.sizes()
    );
    check_content(&disk, rig, size, |sector, stamp| {
        history.check_cut(sector, stamp)
    })
    .await;
    check_snapshots(&disk, rig, history, rng).await;
    disk.close().await.unwrap();
    if rng.below(8) == 0 {
        check_use(rig, rng).await;
    }
}

async fn check_content(
    disk: &dyn Disk,
    rig: &Rig,
    size_sectors: u64,
    check: impl Fn(usize, u64) -> Result<(), Vec<u64>>,
) {
    let mut sector = 0;
    for window in &rig.geometry.windows {
        let sectors = window.start..window.end.min(size_sectors);
        let count = usize::try_from(sectors.end.saturating_sub(sectors.start)).unwrap();
        let content = Buffers::zeroed(count * SECTOR_BYTES);
        disk.submit(Request::read(sectors.start * 512, content.clone()))
            .await
            .unwrap();
        let content = content.to_vec();
        for ((n, at), content) in (sector..).zip(sectors).zip(content.chunks(SECTOR_BYTES)) {
            let stamp = stamp_of(content)
                .unwrap_or_else(|byte| panic!("sector {at} is torn at byte {byte}"));
            if let Err(allowed) = check(n, stamp) {
                panic!("sector {at} has {stamp:#x}, not one of {allowed:x?}");
            }
        }
        sector += usize::try_from(window.end - window.start).unwrap();
    }
}

/// Snapshots that were taken are there, and no others; one of them has what it should.
async fn check_snapshots(disk: &Image, rig: &Rig, history: &History, rng: &mut Rng) {
    let found: Vec<_> = disk
        .snapshots()
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    let known = history.snapshots();
    for name in &found {
        assert!(
            known.contains_key(name),
            "there is a snapshot {name:?}, of {known:?}"
        );
    }
    for (name, snapshot) in known {
        assert!(
            !snapshot.sure || found.contains(name),
            "there is no snapshot {name:?}"
        );
    }
    if found.is_empty() || rng.below(4) > 0 {
        return;
    }
    let name = pick(rng, &found);
    let Snapshot {
        stamps, sectors, ..
    } = &known[name];
    match disk.apply_snapshot(name).await {
        Err(Error::Unsupported { .. }) if rig.geometry.may_refuse() => return,
        result => result.unwrap(),
    }
    assert_eq!(disk.properties().size_bytes / 512, *sectors);
    let check = |sector, stamp| {
        let expected: u64 = stamps[sector];
        if stamp == expected {
            Ok(())
        } else {
            Err(vec![expected])
        }
    };
    check_content(disk, rig, *sectors, check).await;
}

/// The image can be used as if nothing had happened, and what is lost of it can be had back.
async fn check_use(rig: &Rig, rng: &mut Rng) {
    let disk = rig.open().await.unwrap();
    let size = disk.properties().size_bytes;
    let data = Buffers::from_vec(bytes_of(&[1]));
    let offset = rng.below(size / 512) * 512;
    disk.submit(Request::write(offset, data.clone()))
        .await
        .unwrap();
    disk.close().await.unwrap();
    let report = check(&rig.image, Repair::Leaks).await.unwrap();
    assert!(report.exit_status() == 0, "{report:#?}");
    let disk = rig.open().await.unwrap();
    disk.submit(Request::read(offset, data.clone()))
        .await
        .unwrap();
    assert_eq!(stamp_of(&data.to_vec()), Ok(1));
}

/// Cuts the power again while the image is recovered.
fn cut_recovery(executor: &Executor, rig: &Rig, rng: &mut Rng) -> Rig {
    let recording = Recording::start(&rig.disks());
    executor.run(async {
        recover(&rig.image).await.unwrap();
    });
    rig.after_cut(cut_somewhere(recording, rng))
}

/// Runs a program on a small image, and looks at its power cuts. `errors` may have the disks fail.
fn run_and_cut(seed: u64, errors: Option<fn(&Rig, &mut Rng)>) -> u64 {
    let mut rng = Rng::new(seed);
    let geometry = Geometry::small(&mut rng);
    run_on_and_cut(&geometry, rng, seed, errors)
}

/// The same on an image like this.
pub(super) fn run_on_and_cut(
    geometry: &Geometry,
    mut rng: Rng,
    seed: u64,
    errors: Option<fn(&Rig, &mut Rng)>,
) -> u64 {
    let trace = Trace::new(geometry);
    let mut generator = Generator::new(geometry, seed);
    let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
    let (rig, recording, log) = executor.run(async {
        let rig = Rig::create(geometry.clone(), seed).await;
        let recording = Recording::start(&rig.disks());
        let mut run = Run::start(&rig, || recording.steps()).await;
        if let Some(errors) = errors {
            errors(&rig, &mut rng);
            run.tolerate_errors();
        }
        run.steps(&mut generator, program_steps(STEPS), &trace.steps)
            .await;
        if errors.is_none() {
            run.close().await;
        }
        let log = run.into_log();
        (rig, recording, log)
    });
    let history = History::new(&rig.geometry.initial(), rig.geometry.size_sectors());
    try_cuts(recording, log, history, seed, |left, history, rng| {
        let mut rig = rig.after_cut(left);
        if rng.below(3) == 0 {
            rig = cut_recovery(&executor, &rig, rng);
        }
        executor.run(look(&rig, history, rng));
    })
}

#[test]
fn power_cuts_lose_nothing_that_was_flushed() {
    let tally = Tally::default();
    seeded(260, |seed| tally.add(seed, run_and_cut(seed, None)));
    tally.print("qcow2: ");
}

/// The host has failed before: nothing of that is left that a power cut could bring to light.
#[test]
fn power_cuts_after_errors_lose_nothing_that_was_flushed() {
    let tally = Tally::default();
    seeded(60, |seed| {
        tally.add(seed, run_and_cut(seed, Some(fail_some_writes)));
    });
    tally.print("qcow2: after errors, ");
}

/// What was found in long runs, and is mended: a cluster of compressed data that was let go for one
/// of its users while the transaction of the other was not durable; a new refcount table that was
/// still in the journal, behind the end of the file, when the header said that it was there.
#[test]
fn power_cuts_that_once_lost_something_do_not() {
    run_and_cut(1_000_347, None);
    run_and_cut(3_001_989, None);
}
