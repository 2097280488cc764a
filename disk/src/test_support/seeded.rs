//! Tests that draw what they do from a seed, and how to run a failing one again.

use std::any::type_name_of_val;
use std::env;
use std::fmt::Write;
use std::str::FromStr;
use std::thread;

/// The first seed, and alone the only one.
const SEED: &str = "MICROVM_SEED";
/// How many seeds.
const SEEDS: &str = "MICROVM_SEEDS";
/// How long a program.
const STEPS: &str = "MICROVM_STEPS";

/// Runs `test` with the seeds from 0 to below `seeds`. When one fails, says how to run just that
/// one again:
/// ```text
/// to replay: MICROVM_SEED=17 cargo test -p disk --lib -- raw::tests::model::simulated --exact --nocapture
/// ```
/// `MICROVM_SEED` is the only seed to run; with `MICROVM_SEEDS` the first, and `MICROVM_SEEDS` is
/// how many. Call it from the test function itself, which is the one that is named.
pub(crate) fn seeded(seeds: u64, mut test: impl FnMut(u64)) {
    let name = test_name(type_name_of_val(&test)).to_owned();
    let first: Option<u64> = setting(SEED);
    let count = setting(SEEDS).unwrap_or(if first.is_some() { 1 } else { seeds });
    let first = first.unwrap_or(0);
    for seed in first..first.saturating_add(count) {
        let _replay = Replay { name: &name, seed };
        test(seed);
    }
    println!("{name}: {count} seeds from {first}");
}

/// The length of a program that is `steps` long unless `MICROVM_STEPS` says otherwise, to find the
/// shortest one that still fails: a program of a seed must begin as its longer ones do.
pub(crate) fn program_steps(steps: u64) -> u64 {
    setting(STEPS).unwrap_or(steps)
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let value = env::var(name).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// The test that a closure is written in, as `cargo test` names it.
fn test_name(closure: &str) -> &str {
    let path = closure.split_once("::").map_or(closure, |(_, path)| path);
    path.split("::{{closure}}").next().unwrap_or(path)
}

/// Says how to replay a seed when its test panics.
struct Replay<'a> {
    name: &'a str,
    seed: u64,
}

impl Replay<'_> {
    fn command(&self, steps: Option<u64>) -> String {
        let Self { name, seed } = self;
        let mut command = format!("{SEED}={seed} ");
        if let Some(steps) = steps {
            write!(command, "{STEPS}={steps} ").expect("a string takes all");
        }
        command + &format!("cargo test -p disk --lib -- {name} --exact --nocapture")
    }
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("to replay: {}", self.command(setting(STEPS)));
        }
    }
}

#[test]
fn replay_names_the_test_the_seed_and_the_length() {
    let closure = || ();
    let name = test_name(type_name_of_val(&closure));
    let replay = Replay { name, seed: 17 };
    let test = "test_support::seeded::replay_names_the_test_the_seed_and_the_length";
    let rest = format!("cargo test -p disk --lib -- {test} --exact --nocapture");
    assert_eq!(replay.command(None), format!("MICROVM_SEED=17 {rest}"));
    assert_eq!(
        replay.command(Some(5)),
        format!("MICROVM_SEED=17 MICROVM_STEPS=5 {rest}")
    );
}
