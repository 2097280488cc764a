//! End-to-end tests that are made of rounds, each drawn from a seed: round after round.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tests::artifacts::cargo;

/// A test of rounds.
pub(super) struct Rounds {
    name: &'static str,
    /// Where `cargo test` finds it.
    target: &'static str,
    test: &'static str,
    /// How many rounds a test program is asked for when the time is what ends them.
    batch: u64,
}

/// Power cuts of an emulated host whose guest writes. An emulated host serves a batch.
pub(super) const POWER: Rounds = Rounds {
    name: "power",
    target: "power_cut",
    test: "rounds::every_record_that_a_guest_reported_outlives_the_hosts_power",
    batch: 5,
};

/// NBD servers that are killed while clients write.
pub(super) const KILL: Rounds = Rounds {
    name: "kill",
    target: "nbd",
    test: "killed::what_was_flushed_is_there_after_a_kill",
    batch: 20,
};

/// What ends the rounds.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// So many.
    Rounds(u64),
    /// A time; what has begun is finished.
    Time(Duration),
}

impl Rounds {
    /// Runs rounds with the seeds from `first` on; whether none failed. Each says what it does.
    pub(super) fn run(&self, end: End, first: u64) -> Result<bool> {
        let start = Instant::now();
        let mut rounds = 0;
        loop {
            let batch = match end {
                End::Rounds(all) => all.saturating_sub(rounds).min(self.batch),
                End::Time(time) if rounds > 0 && start.elapsed() >= time => 0,
                End::Time(_) => self.batch,
            };
            if batch == 0 {
                break;
            }
            if !self.test(first + rounds, batch)? {
                return Ok(false);
            }
            rounds += batch;
        }
        println!(
            "{}: {rounds} rounds from seed {first}: none failed",
            self.name
        );
        Ok(true)
    }

    fn test(&self, seed: u64, rounds: u64) -> Result<bool> {
        let mut command: Command = cargo();
        command
            .args(["test", "--quiet", "--package", "tests"])
            .args(["--test", self.target, "--", self.test])
            .args(["--exact", "--nocapture"])
            .env("MICROVM_SEED", seed.to_string())
            .env("MICROVM_SEEDS", rounds.to_string());
        let status = command.status().context("cargo test: run")?;
        Ok(status.success())
    }
}
