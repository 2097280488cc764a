//! `cargo xtask test`: everything that can be checked, one step after the other. Guests have the
//! machine to themselves: in the lab, a Debian gives up what takes minutes.

mod programs;
mod report;
mod step;
mod tools;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use images::packages::{Tool, require};
use tests::Parts;
use tests::host::Choice;
use tests::lab::scratch;
use tests::report::SKIPS_VARIABLE;

use programs::Programs;
use report::Report;
use step::Step;

/// How many guests run at a time. One often waits while the other works.
const GUESTS_AT_A_TIME: &str = "2";

pub(crate) fn run() -> Result<ExitCode> {
    tools::require()?;
    // The disk engine's own tests ask QEMU.
    require(&[
        Tool::QemuImg,
        Tool::QemuIo,
        Tool::Mke2fs,
        Tool::MkfsBtrfs,
        Tool::MkfsXfs,
    ])?;
    let parts = Parts::for_tests()?;
    let choice = Choice::make(&parts.microvm)?;
    println!("guests run on: {choice}");

    let skips = scratch()?.join(format!("skips-{}", std::process::id()));
    let mut report = Report::default();
    for step in steps(&programs::find()?, &skips) {
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

/// All tests are of the whole workspace, so that all are built with the same features of what they
/// share, which is therefore built once.
fn tests(name: &'static str, targets: &[String], skips: &Path) -> Step {
    let arguments = ["test", "--workspace"].into_iter();
    let targets = targets.iter().map(String::as_str);
    Step::tests(name, arguments.chain(targets)).env(SKIPS_VARIABLE, skips)
}

fn steps(programs: &Programs, skips: &Path) -> Vec<Step> {
    let lints = ["--workspace", "--all-targets", "--", "-D", "warnings"];
    let documentation = ["--workspace", "--no-deps", "--document-private-items"];
    let dependencies = ["--offline", "check", "licenses", "bans", "sources"];
    let units = ["--lib", "--bins"].map(str::to_owned);
    vec![
        Step::check("formatting", ["fmt", "--all", "--check"]),
        Step::check("lints", ["clippy"].into_iter().chain(lints)),
        Step::check("documentation", ["doc"].into_iter().chain(documentation))
            .env("RUSTDOCFLAGS", "-D warnings"),
        Step::check("dependencies", ["deny"].into_iter().chain(dependencies)),
        tests("unit tests", &units, skips),
        tests("tools", &programs.others, skips),
        tests("examples", &["--doc".to_owned()], skips),
        tests("guests", &programs.guests, skips).env("RUST_TEST_THREADS", GUESTS_AT_A_TIME),
    ]
}

/// Runs a command to its success.
pub(crate) fn succeed(command: &mut std::process::Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{name}: run"))?;
    anyhow::ensure!(status.success(), "{name}: {status}");
    Ok(())
}
