//! `cargo xtask test`: everything that can be checked, one step after the other.

mod report;
mod step;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use images::packages::{Tool, require};
use tests::Parts;
use tests::host::Choice;
use tests::lab::scratch;
use tests::report::SKIPS_VARIABLE;

use report::Report;
use step::Step;

/// How many guests run at a time. One often waits while the other works.
const GUESTS_AT_A_TIME: &str = "2";

pub(crate) fn run() -> Result<ExitCode> {
    tools::require()?;
    // The disk engine's own tests ask QEMU.
    require(&[Tool::QemuImg, Tool::QemuIo])?;
    let parts = Parts::for_tests()?;
    let choice = Choice::make(&parts.microvm)?;
    println!("guests run on: {choice}");

    let skips = scratch()?.join(format!("skips-{}", std::process::id()));
    let mut report = Report::default();
    for step in steps(&skips) {
        println!("\n== {}", step.name);
        report.add(step.run()?);
    }
    let skipped = std::fs::read_to_string(&skips).unwrap_or_default();
    let _ = std::fs::remove_file(&skips);
    report.skip(&skipped);
    println!("\nguests ran on: {choice}\n{report}");
    Ok(if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn steps(skips: &PathBuf) -> Vec<Step> {
    vec![
        Step::check("formatting", &["fmt", "--all", "--check"]),
        Step::check(
            "lints",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
        Step::check(
            "documentation",
            &[
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ],
        )
        .env("RUSTDOCFLAGS", "-D warnings"),
        Step::check(
            "dependencies",
            &["deny", "--offline", "check", "licenses", "bans", "sources"],
        ),
        Step::tests("unit tests", &["test", "--workspace", "--exclude", "tests"])
            .env(SKIPS_VARIABLE, skips),
        Step::tests("guests", &["test", "--package", "tests"])
            .env("RUST_TEST_THREADS", GUESTS_AT_A_TIME)
            .env(SKIPS_VARIABLE, skips),
    ]
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> std::process::Command {
    let mut cargo =
        std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(tests::artifacts::workspace_dir());
    cargo
}

/// Runs a command to its success.
pub(crate) fn succeed(command: &mut std::process::Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{name}: run"))?;
    anyhow::ensure!(status.success(), "{name}: {status}");
    Ok(())
}
