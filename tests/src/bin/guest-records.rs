//! The guest's side of the power cuts: `guest-records write DIR SEED` writes numbered records
//! until its machine is gone, `guest-records verify DIR SEED NUMBER…` looks for them.
//!
//! A line of `write` is `record WRITER NUMBER`, after the fsync of that record. `verify` takes the last
//! number of each writer.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use tests::records::{Trim, verify, write};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["write", directory, seed] => start(directory, seed),
        ["verify", directory, seed, ref numbers @ ..] => look(directory, seed, numbers),
        _ => Err(anyhow::anyhow!(
            "write DIR SEED, or verify DIR SEED NUMBER…"
        )),
    };
    if let Err(error) = outcome {
        println!("guest-records: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn start(directory: &str, seed: &str) -> Result<()> {
    let report = |writer: usize, number: u64| {
        // In one piece: the lines of the writers do not mix.
        let line = format!("record {writer} {number}\n");
        Ok(std::io::stdout().lock().write_all(line.as_bytes())?)
    };
    let seed = seed.parse().context("the seed is no number")?;
    write(Path::new(directory), seed, u64::MAX, Trim::Ask, report)
}

fn look(directory: &str, seed: &str, numbers: &[&str]) -> Result<()> {
    let seed = seed.parse().context("the seed is no number")?;
    let mut faults = 0;
    for (writer, reported) in numbers.iter().enumerate() {
        let reported = reported.parse().context("no number")?;
        let verdict = verify(Path::new(directory), seed, writer, reported)?;
        println!("{writer} {}", verdict.found);
        for fault in &verdict.faults {
            println!("{fault}");
        }
        faults += verdict.faults.len();
    }
    if faults > 0 {
        bail!("{faults} faults");
    }
    Ok(())
}
