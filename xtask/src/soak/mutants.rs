//! Breaks the disk engine and the hooks on purpose, and sees whether their tests notice.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tests::artifacts::{cargo, target_dir, workspace_dir};

/// Tests that may notice, by a part of their names, and with how many seeds they try.
type Trial = (&'static str, u64);

/// Code that can be broken, and what may notice: the quick tests first.
struct Part {
    package: &'static str,
    /// The target that has the tests.
    target: &'static [&'static str],
    /// Where the code is.
    folder: &'static str,
    trials: &'static [Trial],
    /// So many of them are quick.
    quick: usize,
}

const PARTS: [Part; 2] = [
    Part {
        package: "microvm",
        target: &["--bin", "microvm"],
        folder: "vmm/src",
        trials: &[("insight", 1)],
        quick: 1,
    },
    Part {
        package: "disk",
        target: &["--lib"],
        folder: "disk/src",
        trials: &DISK_TRIALS,
        quick: 20,
    },
];

const DISK_TRIALS: [Trial; 24] = [
    ("open::name", 1),
    ("graybox::tests::journal", 1),
    ("growth::tests::zeros", 20),
    ("flat::tests::behaviour", 1),
    ("flat::tests::reshape", 1),
    ("flat::tests::compact", 1),
    ("flat::tests::snapshots", 1),
    ("storage::remote", 3),
    ("cache::tests::recovery", 1),
    ("cache::tests::crash", 60),
    ("flat::tests::model", 200),
    ("flat::tests::crash", 20),
    ("flat::tests::faults", 100),
    ("qcow2::engine::tests::the_refcount_table", 2),
    ("qcow2::engine::tests::clusters_that", 1),
    ("journal::checks", 1),
    ("qcow2::tests::model", 200),
    ("qcow2::tests::crash", 20),
    ("qcow2::tests::faults", 100),
    ("qcow2::tests::dedup", 60),
    ("flat::tests::crash", 200),
    ("qcow2::tests::model", 2000),
    ("qcow2::tests::crash", 260),
    ("qcow2::tests::faults", 1000),
];
/// How the code asks whether it is to be broken.
const HOOK: &str = "mutant(\"";

/// The first test that failed, and its seed.
struct Catch {
    test: String,
    seed: String,
}

/// Tries each breakage that the code names, with seeds from `first` on; whether all were noticed.
pub(super) fn run(first: u64) -> Result<bool> {
    let (mut all, mut survivors) = (0, 0);
    for part in &PARTS {
        let mut names = BTreeSet::new();
        collect(&workspace_dir().join(part.folder), &mut names)?;
        ensure!(!names.is_empty(), "{} names no mutants", part.folder);
        let whole = part.trials[..part.quick]
            .iter()
            .find_map(|trial| part.attempt("", *trial, first).transpose());
        if let Some(catch) = whole.transpose()? {
            println!("{} fails at seed {} as it is", catch.test, catch.seed);
            return Ok(false);
        }
        println!("{:<52} {:<74} seed", "mutant", "caught by");
        all += names.len();
        for name in &names {
            survivors += usize::from(!part.catches(name, first)?);
        }
    }
    println!("{all} mutants, {survivors} survived");
    Ok(survivors == 0)
}

impl Part {
    /// Whether a test notices a breakage, which is printed.
    fn catches(&self, name: &str, first: u64) -> Result<bool> {
        let caught = self
            .trials
            .iter()
            .find_map(|trial| self.attempt(name, *trial, first).transpose());
        let caught = caught.transpose()?;
        match &caught {
            Some(Catch { test, seed }) => println!("{name:<52} {test:<74} {seed}"),
            None => println!("{name:<52} nothing"),
        }
        Ok(caught.is_some())
    }

    /// Runs a test on broken code; absent if it succeeds all the same.
    fn attempt(&self, mutant: &str, (filter, seeds): Trial, first: u64) -> Result<Option<Catch>> {
        let mut command: Command = cargo();
        command
            .args(["test", "--quiet", "--package", self.package])
            .args(self.target)
            .arg("--target-dir")
            .arg(target_dir().join("mutants"))
            .args(["--", filter])
            .env("RUSTFLAGS", "--cfg mutants")
            .env("RUST_BACKTRACE", "0")
            .env("MICROVM_MUTANT", mutant)
            .env("MICROVM_SEED", first.to_string())
            .env("MICROVM_SEEDS", seeds.to_string());
        let output = command.output().context("cargo test: run")?;
        if output.status.success() {
            return Ok(None);
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        let catch = catch_in(&printed).with_context(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("{filter} with '{mutant}': no seed failed\n{printed}{errors}")
        })?;
        Ok(Some(catch))
    }
}

/// Finds the names of all breakages in a folder of code.
fn collect(directory: &Path, names: &mut BTreeSet<String>) -> Result<()> {
    let read = || format!("{}: read", directory.display());
    for entry in fs::read_dir(directory).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.is_dir() {
            collect(&path, names)?;
        } else {
            let code = fs::read_to_string(&path).with_context(read)?;
            names.extend(names_in(&code).map(str::to_owned));
        }
    }
    Ok(())
}

fn names_in(code: &str) -> impl Iterator<Item = &str> {
    code.split(HOOK)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
}

/// The first test that failed, and the seed that replays it, if it has any.
fn catch_in(printed: &str) -> Option<Catch> {
    let failed = |line: &str| {
        let name = line.strip_prefix("---- ")?.strip_suffix(" stdout ----")?;
        Some(name.to_owned())
    };
    let test = printed.lines().find_map(failed)?;
    let command = printed.split("to replay: MICROVM_SEED=").nth(1);
    let seed = command.and_then(|rest| rest.split(' ').next());
    Some(Catch {
        test,
        seed: seed.unwrap_or("-").to_owned(),
    })
}

#[test]
fn names_are_found_in_code() {
    let code = format!("if {HOOK}no sync\") {{}} && !{HOOK}stale page\")");
    assert_eq!(
        names_in(&code).collect::<Vec<_>>(),
        ["no sync", "stale page"]
    );
}

#[test]
fn a_failure_names_its_test_and_seed() {
    let caught = |printed| catch_in(printed).map(|catch| (catch.test, catch.seed));
    let failed = "failures:\n\n---- a::b stdout ----\nx\n";
    let named = |seed: &str| Some(("a::b".to_owned(), seed.to_owned()));
    assert_eq!(caught(failed), named("-"));
    let seeded = format!("{failed}to replay: MICROVM_SEED=7 cargo test -- a::b --exact\n");
    assert_eq!(caught(&seeded), named("7"));
    assert_eq!(caught("error: could not compile"), None);
}
