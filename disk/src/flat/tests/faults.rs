//! Errors of the host: what fails is reported, and what is on the disk stays good.

use super::crash::look;
use super::program::Generator;
use super::rig::{Rig, simulated};
use super::run::Run;
use crate::rng::Rng;
use crate::test_support::{join_all, seeded};
use crate::{Buffers, Disk, Error, Fault, FaultyOperation, Order, Request};

const STEPS: u64 = 20;

/// Runs a program: `disturb` comes before the greater part of it, and `end` looks at what is left.
fn disturbed(
    seed: u64,
    disturb: impl Fn(&Rig, &mut Rng),
    end: impl AsyncFnOnce(&Rig, Run<'_>, &mut Rng),
) {
    simulated(seed, async || {
        let rng = &mut Rng::new(seed);
        let rig = Rig::random(seed).await;
        let mut generator = Generator::new(&rig, seed);
        let run = Run::start(&rig, || 0).await;
        run.steps(&mut generator, STEPS / 4).await;
        run.witness.tolerate_errors(true);
        disturb(&rig, rng);
        run.steps(&mut generator, STEPS).await;
        end(&rig, run, rng).await;
    });
}

/// Once the host works again, so does the disk: without being opened again. But when the header
/// could not be written, nobody knows which one the image has, and nothing more is written.
async fn works_again(rig: &Rig, run: Run<'_>, rng: &mut Rng) {
    rig.image.heal();
    match run.disk().submit(Request::flush()).await {
        Err(Error::FlushFailedBefore { .. }) => look_at_cut(rig, run, rng).await,
        flushed => {
            flushed.unwrap();
            run.witness.tolerate_errors(false);
            run.finish_with_leaks().await;
        }
    }
}

/// Nothing that was promised is lost.
async fn look_at_cut(rig: &Rig, run: Run<'_>, rng: &mut Rng) {
    let left = rig.after_cut(rig.image.power_cut());
    let history = run.into_history();
    look(&left, &history, rng).await;
}

/// Lets some of the next writes fail.
pub(super) fn fail_some_writes(rig: &Rig, rng: &mut Rng) {
    for _ in 0..4 {
        let operation = match rng.below(4) {
            0 => FaultyOperation::Zero,
            _ => FaultyOperation::Write,
        };
        let fault = Fault::new(operation, libc::EIO);
        let fault = fault.after(rng.below(100)).times(1 + rng.below(3));
        rig.image.inject(fault);
    }
}

#[test]
fn failing_writes_are_reported_and_harm_nothing_else() {
    seeded(300, |seed| disturbed(seed, fail_some_writes, works_again));
}

#[test]
fn full_host_is_reported_and_room_is_used_when_there_is_some() {
    seeded(300, |seed| {
        let disturb = |rig: &Rig, rng: &mut Rng| {
            let room = rig.image.allocated_bytes() + rng.below(12) * 4096;
            rig.image.set_capacity_bytes(room);
        };
        disturbed(seed, disturb, works_again);
    });
}

/// What a failed sync should have made durable may be lost, and a later one would not tell.
#[test]
fn failed_sync_ends_all_writing() {
    let mut failed = 0;
    seeded(300, |seed| {
        let disturb = |rig: &Rig, rng: &mut Rng| {
            let fault = Fault::new(FaultyOperation::Sync, libc::EIO);
            rig.image.inject(fault.after(rng.below(12)));
        };
        disturbed(seed, disturb, async |rig, run, rng| {
            let disk = run.disk();
            if disk.submit(Request::flush()).await.is_err() {
                failed += 1;
                let discard = disk.submit(Request::discard(0, 512)).await;
                let error = discard.unwrap_err();
                assert!(matches!(error, Error::FlushFailedBefore { .. }), "{error}");
                disk.close().await.unwrap_err();
            }
            look_at_cut(rig, run, rng).await;
        });
    });
    assert!(failed > 0);
}

/// Several wait for the journal to be made while a sync fails, perhaps after the header that tells
/// of it became durable: then nobody writes to its region again.
#[test]
fn the_first_writes_after_a_failed_sync_leave_the_journal_alone() {
    seeded(400, |seed| {
        simulated(seed, async || {
            let rng = &mut Rng::new(seed);
            let rig = Rig::create(seed, 64, 12, vec![2; 64], Order::Journal, false).await;
            let disk = rig.open().await.unwrap();
            let fault = Fault::new(FaultyOperation::Sync, libc::EIO);
            rig.image.inject(fault.after(rng.below(5)));
            let requests = (0..6).map(|n| match n % 2 {
                0 => Request::write(n * 4096, Buffers::zeroed(512)),
                _ => Request::flush(),
            });
            join_all(requests.map(async |request| drop(disk.submit(request).await))).await;
            rig.after_cut(rig.image.power_cut()).recover().await;
        });
    });
}
