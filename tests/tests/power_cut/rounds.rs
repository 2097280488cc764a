//! Rounds of power cuts while a guest writes, each drawn from a seed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use tests::{Host, Parts, seeds};

use crate::evidence;
use crate::round::Round;

/// The rounds of a test run, unless `MICROVM_SEEDS` says otherwise: one of each format.
const ROUNDS: u64 = 2;

/// `MICROVM_SEED` is the only seed to run; with `MICROVM_SEEDS` the first, and `MICROVM_SEEDS` is
/// how many.
#[test]
fn every_record_that_a_guest_reported_outlives_the_hosts_power() {
    let seeds = seeds::chosen(ROUNDS);
    let (first, count) = (seeds.start, seeds.end - seeds.start);
    let parts = Parts::get().unwrap().with_records().unwrap();
    let mut host = Host::emulated(parts).unwrap();
    let mut power_cuts = 0;
    for seed in seeds {
        power_cuts += one(&mut host, seed);
    }
    println!("{count} rounds from seed {first}: {power_cuts} power cuts");
}

/// One round. If it fails, what it did to the image is kept, and how to ask for the same is said.
fn one(host: &mut Host, seed: u64) -> u64 {
    let round = Round::draw(seed);
    let image = round.image(host);
    let outcome = catch_unwind(AssertUnwindSafe(|| round.run(host, &image)));
    match outcome {
        Ok(power_cuts) => {
            image.remove(host);
            power_cuts
        }
        Err(panic) => {
            eprintln!("failed: {round:#?}");
            evidence::save(host, &image, seed);
            eprintln!(
                "to replay: MICROVM_SEED={seed} cargo test -p tests --test power_cut -- every_record --nocapture"
            );
            eprintln!(
                "That asks for the same image, records and moments. Real time decides what they hit: \
                 it may take many tries."
            );
            resume_unwind(panic)
        }
    }
}
