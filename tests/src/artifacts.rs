//! The programs under test, built as they run in the lab: static, optimised.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Names a microvm to be tested in place of the one that is built here.
pub const PROGRAM_VARIABLE: &str = "MICROVM_TEST_PROGRAM";

/// The target triple is named so that the flags do not reach build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The directory of the workspace.
pub fn workspace_dir() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo's output directory.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => workspace_dir().join(directory),
        None => workspace_dir().join("target"),
    }
}

/// The program under test: what [`PROGRAM_VARIABLE`] names, else what is built here.
pub fn microvm() -> Result<PathBuf> {
    match std::env::var_os(PROGRAM_VARIABLE) {
        Some(program) => Ok(program.into()),
        None => static_program("microvm", "microvm"),
    }
}

/// Builds a program of a workspace package as a static executable and returns its path.
///
/// It has an output directory of its own: flags differ from those of an ordinary build, and a
/// build that runs at the same time does not hold it up.
pub fn static_program(package: &str, program: &str) -> Result<PathBuf> {
    let output = target_dir().join("static");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(workspace_dir())
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["build", "--quiet", "--release", "--target", TARGET])
        .args(["--package", package, "--bin", program, "--target-dir"])
        .arg(&output)
        .status()
        .context("cargo: run")?;
    ensure!(status.success(), "cargo: cannot build {program}");
    Ok(output.join(TARGET).join("release").join(program))
}
