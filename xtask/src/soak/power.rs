//! Power cuts of an emulated host whose guest writes: `tests/tests/power_cut/`, round after round.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::test::cargo;

/// The test, as `cargo test` finds it.
const TEST: &str = "rounds::every_record_that_a_guest_reported_outlives_the_hosts_power";
/// How many rounds one emulated host serves when the time is what ends them.
const BATCH: u64 = 5;

/// What ends the rounds.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// So many.
    Rounds(u64),
    /// A time; what has begun is finished.
    Time(Duration),
}

/// Runs rounds with the seeds from `first` on; whether none failed. Each says what it does.
pub(super) fn run(end: End, first: u64) -> Result<bool> {
    let start = Instant::now();
    let mut rounds = 0;
    loop {
        let batch = match end {
            End::Rounds(all) => all.saturating_sub(rounds).min(BATCH),
            End::Time(time) if rounds > 0 && start.elapsed() >= time => 0,
            End::Time(_) => BATCH,
        };
        if batch == 0 {
            break;
        }
        if !test(first + rounds, batch)? {
            return Ok(false);
        }
        rounds += batch;
    }
    println!("power: {rounds} rounds from seed {first}: none failed");
    Ok(true)
}

fn test(seed: u64, rounds: u64) -> Result<bool> {
    let mut command: Command = cargo();
    command
        .args(["test", "--quiet", "--package", "tests"])
        .args(["--test", "power_cut", "--", TEST, "--exact", "--nocapture"])
        .env("MICROVM_SEED", seed.to_string())
        .env("MICROVM_SEEDS", rounds.to_string());
    let status = command.status().context("cargo test: run")?;
    Ok(status.success())
}
