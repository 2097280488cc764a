//! Random programs on random images, against what they wrote.

use super::program::Generator;
use super::rig::{Rig, simulated};
use super::run::Run;
use crate::test_support::seeded;

#[test]
fn programs_read_what_they_wrote() {
    seeded(1500, |seed| {
        simulated(seed, async || {
            let rig = Rig::random(seed).await;
            let run = Run::start(&rig, || 0).await;
            let mut generator = Generator::new(&rig, seed).with_commits();
            run.steps(&mut generator, 40).await;
            run.finish().await;
        });
    });
}
