//! The fuzz targets in `tests/fuzz`, one after the other.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::artifacts::{cargo, target_dir, workspace_dir};

use crate::test::succeed;

const TARGETS: [&str; 4] = ["read", "check", "write", "repair"];
/// More than this is not worth an image of at most [`IMAGE_BYTES_MAX`].
const MEMORY_MIB_MAX: u32 = 512;
/// One input takes a millisecond.
const INPUT_SECONDS_MAX: u32 = 20;
/// Enough for everything an image can have, with clusters of 512 bytes.
const IMAGE_BYTES_MAX: u32 = 32 << 10;

/// Fuzzes until `time` is over; whether nothing was found. What was is in a file that the fuzzer
/// names, with the command that tries it again.
pub(super) fn run(time: Duration) -> Result<bool> {
    require()?;
    let seconds = (time.as_secs() / TARGETS.len() as u64).max(1);
    for target in TARGETS {
        let corpus = target_dir().join("fuzz-corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("{}: create", corpus.display()))?;
        let mut command = fuzz("run");
        // New inputs go to the first directory.
        command
            .arg(target)
            .arg(corpus)
            .arg(directory().join("corpus"));
        command.args([
            "--".to_owned(),
            format!("-max_total_time={seconds}"),
            format!("-max_len={IMAGE_BYTES_MAX}"),
            format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
            format!("-timeout={INPUT_SECONDS_MAX}"),
            "-print_final_stats=1".to_owned(),
        ]);
        let status = command.status().context("cargo fuzz: run")?;
        if !status.success() {
            return Ok(false);
        }
        println!("fuzz {target}: {seconds} seconds: nothing found");
    }
    Ok(true)
}

fn directory() -> PathBuf {
    workspace_dir().join("tests/fuzz")
}

/// The fuzzer needs a nightly compiler. This one is a rustup shim's, not the running toolchain's.
fn fuzz(command: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    cargo.current_dir(directory());
    // Rust checks bounds and overflows itself; the code that is unsafe is not reached.
    cargo.args([
        "+nightly",
        "fuzz",
        command,
        "--fuzz-dir",
        ".",
        "--sanitizer",
        "none",
    ]);
    cargo.arg("--target-dir").arg(target_dir().join("fuzz"));
    cargo
}

/// Installs what is missing, and says so.
fn require() -> Result<()> {
    if !works(Command::new("cargo").args(["+nightly", "--version"])) {
        eprintln!("xtask: installing a nightly compiler (rustup toolchain install nightly)");
        let install = ["toolchain", "install", "nightly", "--profile", "minimal"];
        succeed(Command::new("rustup").args(install)).context("there is no nightly compiler")?;
    }
    if !works(cargo().args(["fuzz", "--version"])) {
        eprintln!("xtask: installing cargo-fuzz (cargo install --locked cargo-fuzz)");
        succeed(cargo().args(["install", "--quiet", "--locked", "cargo-fuzz"]))
            .context("cargo-fuzz is missing")?;
    }
    Ok(())
}

fn works(command: &mut Command) -> bool {
    command.env_remove("RUSTUP_TOOLCHAIN");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
