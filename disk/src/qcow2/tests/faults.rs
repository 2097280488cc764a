//! Errors of the host: what fails is reported, and what is on the disk stays good.

use super::crash::look;
use super::geometry::Geometry;
use super::model::Trace;
use super::program::{Action, Generator, Step};
use super::rig::{Image, Rig};
use super::run::Run;
use crate::rng::Rng;
use crate::test_support::{program_steps, seeded};
use crate::{
    Backend, Buffers, Disk, Error, Executor, Fault, FaultyOperation, Request, SimulatedStorage,
};

const STEPS: u64 = 20;

/// Runs a program on a small image: `disturb` comes first, and `recover` looks at what is left.
fn disturbed(
    seed: u64,
    disturb: impl Fn(&Rig, &mut Rng),
    recover: impl AsyncFnOnce(&Rig, Run<'_>, &mut Rng),
) {
    let mut rng = Rng::new(seed);
    let geometry = Geometry::small(&mut rng);
    let trace = Trace::new(&geometry);
    let mut generator = Generator::new(&geometry, seed);
    let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
    executor.run(async {
        let rig = Rig::create(geometry.clone(), seed).await;
        let mut run = Run::start(&rig, || 0).await;
        run.steps(&mut generator, program_steps(STEPS) / 4, &trace.steps)
            .await;
        run.tolerate_errors();
        disturb(&rig, &mut rng);
        run.steps(&mut generator, program_steps(STEPS), &trace.steps)
            .await;
        recover(&rig, run, &mut rng).await;
    });
}

/// Once the host works again, so does the disk: without being opened again. But when the header
/// could not be written, nobody knows which one the image has, and nothing more is written.
async fn works_again(rig: &Rig, run: Run<'_>, rng: &mut Rng) {
    for disk in rig.disks() {
        disk.heal();
    }
    match run.disk().submit(Request::flush()).await {
        Err(Error::FlushFailedBefore { .. }) => look_at_cut(rig, run, rng).await,
        flushed => {
            flushed.unwrap();
            run.forbid_errors().finish_with_leaks().await;
        }
    }
}

/// Nothing that was promised is lost.
async fn look_at_cut(rig: &Rig, run: Run<'_>, rng: &mut Rng) {
    let left = rig
        .disks()
        .into_iter()
        .map(SimulatedStorage::power_cut)
        .collect();
    look(&rig.after_cut(left), &run.into_history(), rng).await;
}

/// Lets some of the next writes fail.
pub(super) fn fail_some_writes(rig: &Rig, rng: &mut Rng) {
    for disk in rig.disks() {
        for _ in 0..4 {
            let operation = match rng.below(4) {
                0 => FaultyOperation::Zero,
                _ => FaultyOperation::Write,
            };
            let fault = Fault::new(operation, libc::EIO);
            disk.inject(fault.after(rng.below(100)).times(1 + rng.below(3)));
        }
    }
}

#[test]
fn failing_writes_are_reported_and_harm_nothing_else() {
    seeded(400, |seed| {
        disturbed(seed, fail_some_writes, async |rig, run, rng| {
            works_again(rig, run, rng).await;
        });
    });
}

#[test]
fn full_host_is_reported_and_room_is_used_when_there_is_some() {
    seeded(400, |seed| {
        let disturb = |rig: &Rig, rng: &mut Rng| {
            for disk in rig.disks() {
                disk.set_capacity_bytes(disk.allocated_bytes() + rng.below(12) * 4096);
            }
        };
        disturbed(seed, disturb, async |rig, run, rng| {
            works_again(rig, run, rng).await;
        });
    });
}

async fn all_is_refused(disk: &Image) {
    for request in [
        Request::flush(),
        Request::write(0, Buffers::zeroed(512)),
        Request::discard(0, 512),
        Request::write_zeroes(0, 512, false),
    ] {
        let error = disk.submit(request).await.unwrap_err();
        assert!(matches!(error, Error::FlushFailedBefore { .. }), "{error}");
    }
    disk.close().await.unwrap_err();
}

/// What a failed sync should have made durable may be lost, and a later one would not tell.
#[test]
fn failed_sync_ends_all_writing() {
    let mut failed = 0;
    seeded(400, |seed| {
        let disturb = |rig: &Rig, rng: &mut Rng| {
            let disks = rig.disks();
            let disk = disks[rng.index(disks.len())];
            disk.inject(Fault::new(FaultyOperation::Sync, libc::EIO).after(rng.below(12)));
        };
        disturbed(seed, disturb, async |rig, run, rng| {
            run.step(Step::Batch(vec![vec![Action::Write(0..1), Action::Flush]]))
                .await;
            if run.disk().submit(Request::flush()).await.is_err() {
                failed += 1;
                all_is_refused(&run.disk()).await;
            }
            look_at_cut(rig, run, rng).await;
        });
    });
    assert!(failed > 0);
}
