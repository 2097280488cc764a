//! Random programs on random images, against what they wrote.

use std::cell::RefCell;
use std::thread;

use super::geometry::Geometry;
use super::program::{Generator, Step};
use super::rig::Rig;
use super::run::Run;
use crate::rng::Rng;
use crate::test_support::{program_steps, seeded};
use crate::{Backend, Executor};

/// Says what a program did until it failed.
pub(super) struct Trace {
    geometry: Geometry,
    pub(super) steps: RefCell<Vec<Step>>,
}

impl Trace {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self {
            geometry: geometry.clone(),
            steps: RefCell::default(),
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{:#?}", self.geometry.options);
            let layers: Vec<_> = self
                .geometry
                .layers
                .iter()
                .map(|layer| (layer.qcow2, layer.stamps.len()))
                .collect();
            eprintln!("layers {layers:?}, windows {:?}", self.geometry.windows);
            for (n, step) in self.steps.borrow().iter().enumerate() {
                eprintln!("{n}: {step:?}");
            }
        }
    }
}

/// Runs a program on any image; `look` sees what it left, still open.
pub(super) fn run_program(seed: u64, look: impl AsyncFnOnce(&Rig, &Run<'_>)) {
    run_on(&Geometry::any(&mut Rng::new(seed)), seed, look);
}

/// Runs a program on an image like this; `look` sees what it left, still open.
pub(super) fn run_on(geometry: &Geometry, seed: u64, look: impl AsyncFnOnce(&Rig, &Run<'_>)) {
    let trace = Trace::new(geometry);
    let mut generator = Generator::new(geometry, seed).with_commits();
    let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
    executor.run(async {
        let rig = Rig::create(geometry.clone(), seed).await;
        let run = Run::start(&rig, || 0).await;
        run.steps(&mut generator, program_steps(30), &trace.steps)
            .await;
        look(&rig, &run).await;
    });
}

#[test]
fn programs_read_what_they_wrote() {
    seeded(2000, |seed| {
        run_program(seed, async |_, run| run.finish().await);
    });
}
