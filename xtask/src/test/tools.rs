//! The tools of the Rust toolchain that the steps call.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use tests::artifacts::cargo;

use super::succeed;

/// Settings that build the dependency checker in a minute instead of five. It runs for seconds.
const QUICK_BUILD: [&str; 3] = [
    "profile.release.opt-level=1",
    "profile.release.lto='off'",
    "profile.release.codegen-units=16",
];

/// Installs what is missing, and says so.
pub(super) fn require() -> Result<()> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !works(command) {
            eprintln!("xtask: installing {component} (rustup component add {component})");
            succeed(Command::new("rustup").args(["component", "add", component]))
                .with_context(|| format!("{component} is missing"))?;
        }
    }
    if !works("deny") {
        eprintln!("xtask: installing cargo-deny (cargo install --locked cargo-deny)");
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", "cargo-deny"]);
        install.args(
            QUICK_BUILD
                .iter()
                .flat_map(|setting| ["--config", *setting]),
        );
        succeed(&mut install).context("cargo-deny is missing")?;
    }
    succeed(cargo().args(["fetch", "--quiet", "--locked"])).context("cannot fetch dependencies")
}

fn works(command: &str) -> bool {
    let mut cargo = cargo();
    cargo
        .args([command, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    cargo.status().is_ok_and(|status| status.success())
}
