//! `cargo xtask soak`: the disk's random tests for as long as you like.
//!
//! A seed is a program, a power cut or an image. A failure prints the command that runs just that
//! seed again.

mod fuzz;
mod mutants;
mod rounds;
mod seeds;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use rounds::{End, KILL, POWER};
use seeds::Seeds;

#[derive(Args)]
pub(crate) struct Arguments {
    /// What to try
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
    /// For how long, all together
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// How many rounds of kills or power cuts, in place of a time
    #[arg(long, conflicts_with = "minutes")]
    rounds: Option<u64>,
    /// The first seed; by default one that was never tried, or 0 for mutants
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Random programs on random qcow2 images, against a model
    Model,
    /// Power cuts at every step of random programs
    Crash,
    /// Disks that fail and fill up
    Faults,
    /// Images that were changed at random
    Images,
    /// Images that a fuzzer makes, led by what of the engine they reach
    Fuzz,
    /// NBD servers that are killed while clients write
    Kill,
    /// Power cuts of an emulated host whose guest writes records
    Power,
    /// All of these
    All,
    /// Deliberate breakages of the engine, each of which a test must notice
    Mutants,
}

impl What {
    const EACH: [Self; 7] = [
        Self::Model,
        Self::Crash,
        Self::Faults,
        Self::Images,
        Self::Fuzz,
        Self::Kill,
        Self::Power,
    ];

    /// The same mutants are tried each time, and so are their seeds.
    fn first_seed(self) -> u64 {
        if self == Self::Mutants {
            0
        } else {
            unused_seed()
        }
    }

    fn run(self, time: Duration, seed: u64) -> Result<bool> {
        match self {
            Self::Model => Seeds::lib("qcow2::tests::model", 2000).run(time, seed),
            Self::Crash => Seeds::lib("qcow2::tests::crash", 300).run(time, seed),
            Self::Faults => Seeds::lib("qcow2::tests::faults", 1000).run(time, seed),
            Self::Images => Seeds::images(200_000).run(time, seed),
            Self::Fuzz => fuzz::run(time),
            Self::Kill => KILL.run(End::Time(time), seed),
            Self::Power => POWER.run(End::Time(time), seed),
            Self::Mutants => mutants::run(seed),
            Self::All => unreachable!("it is each of the others"),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let chosen = match &arguments.what {
        What::All => &What::EACH[..],
        one => std::slice::from_ref(one),
    };
    let seed = arguments
        .seed
        .unwrap_or_else(|| arguments.what.first_seed());
    if let Some(rounds) = arguments.rounds {
        let test = match arguments.what {
            What::Kill => KILL,
            What::Power => POWER,
            _ => bail!("rounds are those of kill and power: cargo xtask soak power --rounds N"),
        };
        return Ok(exit_code(test.run(End::Rounds(rounds), seed)?));
    }
    let parts = u32::try_from(chosen.len())?;
    let time = Duration::from_secs(arguments.minutes * 60) / parts;
    for what in chosen {
        if !what.run(time, seed)? {
            return Ok(exit_code(false));
        }
    }
    Ok(exit_code(true))
}

fn exit_code(succeeded: bool) -> ExitCode {
    if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Seeds of an earlier run are far below, and those of the test run too.
fn unused_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs()) * 1_000_000
}
