//! The programs under test, built as they run in the lab: static, optimised.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Names a microvm to be tested in place of the one that is built here.
pub const PROGRAM_VARIABLE: &str = "MICROVM_TEST_PROGRAM";

/// The target triple is named so that the flags do not reach build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How the variables begin in which cargo tells a program of its package.
const PACKAGE_VARIABLES: [&str; 5] = [
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_",
];

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

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As users have it.
    Release,
    /// Optimised, but built in half the time.
    Lab,
}

impl Profile {
    /// What cargo calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Lab => "lab",
        }
    }
}

/// The program under test: what [`PROGRAM_VARIABLE`] names, else what is built here.
pub fn microvm() -> Result<PathBuf> {
    match std::env::var_os(PROGRAM_VARIABLE) {
        Some(program) => Ok(program.into()),
        None => static_program("microvm", "microvm", Profile::Lab),
    }
}

/// Builds a program of a workspace package as a static executable and returns its path.
///
/// It has an output directory of its own: flags differ from those of an ordinary build, and a
/// build that runs at the same time does not hold it up.
pub fn static_program(package: &str, program: &str, profile: Profile) -> Result<PathBuf> {
    let output = target_dir().join("static");
    let status = cargo()
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["build", "--quiet", "--profile", profile.name()])
        .args(["--target", TARGET, "--package", package, "--bin", program])
        .arg("--target-dir")
        .arg(&output)
        .status()
        .context("cargo: run")?;
    ensure!(status.success(), "cargo: cannot build {program}");
    Ok(output.join(TARGET).join(profile.name()).join(program))
}

/// The cargo that runs this program, in the workspace's directory, without what it told this
/// program of its own package: build scripts that ask for such variables would run again, and
/// whatever depends on their crates be built again, whenever another program calls cargo.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace_dir());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if PACKAGE_VARIABLES
            .iter()
            .any(|start| text.starts_with(start))
        {
            cargo.env_remove(&name);
        }
    }
    cargo
}
