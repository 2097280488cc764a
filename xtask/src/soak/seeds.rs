//! Tests that take their seeds from the environment, batch after batch.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tests::artifacts::cargo;

/// A test that is drawn from seeds.
pub(super) struct Seeds {
    /// Where cargo finds it.
    target: &'static [&'static str],
    filter: &'static str,
    /// How many seeds to try at once.
    batch: u64,
}

impl Seeds {
    /// A test beside the engine's code.
    pub(super) fn lib(filter: &'static str, batch: u64) -> Self {
        Self {
            target: &["--lib"],
            filter,
            batch,
        }
    }

    /// The test of changed images.
    pub(super) fn images(batch: u64) -> Self {
        Self {
            target: &["--test", "hostile_images"],
            filter: "changed_images",
            batch,
        }
    }

    /// Tries seeds from `first` on until `time` is over; whether none failed.
    pub(super) fn run(&self, time: Duration, first: u64) -> Result<bool> {
        let start = Instant::now();
        let (mut seeds, mut power_cuts) = (0, 0);
        while seeds == 0 || start.elapsed() < time {
            let output = self.test(first + seeds)?;
            let printed = String::from_utf8_lossy(&output.stdout);
            if !output.status.success() {
                print!("{printed}{}", String::from_utf8_lossy(&output.stderr));
                return Ok(false);
            }
            seeds += self.batch;
            power_cuts += sum_of(&printed, " power cuts");
        }
        let cuts = match power_cuts {
            0 => String::new(),
            cuts => format!(", {cuts} power cuts"),
        };
        println!(
            "{}: {seeds} seeds from {first}{cuts}: none failed",
            self.filter
        );
        Ok(true)
    }

    fn test(&self, seed: u64) -> Result<Output> {
        let mut command: Command = cargo();
        command
            .args(["test", "--quiet", "--package", "disk"])
            .args(self.target)
            .args(["--", self.filter, "--nocapture"])
            .env("MICROVM_SEED", seed.to_string())
            .env("MICROVM_SEEDS", self.batch.to_string());
        command.output().context("cargo test: run")
    }
}

/// The sum of the numbers before `unit` at the end of a line.
fn sum_of(printed: &str, unit: &str) -> u64 {
    let lines = printed.lines().filter_map(|line| line.strip_suffix(unit));
    let numbers = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    numbers.sum()
}

#[test]
fn counts_are_added_up() {
    let printed = "running 2 tests\nqcow2: 12 power cuts\n.no power cuts\n30 power cuts\n";
    assert_eq!(sum_of(printed, " power cuts"), 42);
}
