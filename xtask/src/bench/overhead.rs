//! `cargo xtask bench overhead`: what hooks on system calls cost the loads that Sky was measured with.
//!
//! An emulated host makes an exit 20 to 30 times as dear as a real one, so that times there say nothing
//! of it. Exits are counted there, in a guest for each load; the time that the load takes without any
//! is that of this machine, where the same program does the same.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use ::tests::{Guest, Host, Parts};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use images::packages::{Tool, require};
use serde_json::Value;

use super::interrupt::Interrupt;
use super::report::{Report, Section};
use super::scratch::Scratch;

/// What an exit to the program takes on a real host, in nanoseconds.
const EXIT_NS: f64 = 1500.0;
const PROGRAM: &str = "guest-syscalls";
/// The files that are encrypted, searched and copied.
const TREE: &str = "generate tree 40 64 1024 65536 write 5";
/// The loads of Sky (Arulraj et al., VEE 2017), as `guest-syscalls` does them.
const LOADS: [(&str, &str); 5] = [
    ("encryption", "encrypt tree out"),
    ("file search", "read tree"),
    ("file copy", "copy tree out 65536"),
    ("mail server", "generate out 300 1 16 4096 append 7"),
    ("database", "generate out 1 8192 8192 4096 pwrite 9"),
];

#[derive(Args)]
pub(crate) struct Arguments {}

/// What a guest's hooks counted.
#[derive(Clone, Copy)]
struct Counts {
    /// Calls that came to the hooks, and insight-calls, each of which is an exit.
    exits: u64,
    /// Reads and writes of files by the program.
    data_calls: u64,
}

pub(super) fn run(_: &Arguments, report: &mut Report) -> Result<()> {
    require(&[Tool::Mke2fs])?;
    let interrupt = Interrupt::install()?;
    let program = Parts::judge()?;
    let host = Host::emulated_with(Parts::get()?.with_file_systems()?, |_| Ok(()))?;
    let disk = host.ext4_disk("600M");
    in_guest(&host, &disk, None, TREE)?;
    let mut text = format!(
        "{:<12} {:>8} {:>10} {:>9} {:>10} {:>11} {:>9}\n",
        "", "calls", "unwatched", "watched", "exits/call", "here", "cost"
    );
    let idle = |processes| in_guest(&host, &disk, Some(processes), "find tree");
    let (unwatched_idle, watched_idle) = (idle("nobody")?, idle(PROGRAM)?);
    for (name, load) in LOADS {
        interrupt.check()?;
        let unwatched = in_guest(&host, &disk, Some("nobody"), load)?;
        let watched = in_guest(&host, &disk, Some(PROGRAM), load)?;
        let exits = watched.exits.saturating_sub(watched_idle.exits);
        let native_ns = here(&program, load)?;
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let (per_call, cost) = (
            exits as f64 / watched.data_calls.max(1) as f64,
            exits as f64 * EXIT_NS / native_ns as f64 * 100.0,
        );
        let _ = writeln!(
            text,
            "{name:<12} {:>8} {:>10} {exits:>9} {per_call:>10.2} {:>8} ms {cost:>7.1} %",
            watched.data_calls,
            unwatched.exits.saturating_sub(unwatched_idle.exits),
            native_ns / 1_000_000,
        );
    }
    report.add(Section {
        title: "Exits by hooks on system calls, and what they cost at 1.5 µs each".to_owned(),
        tables: text,
        charts: Vec::new(),
    });
    Ok(())
}

/// Has a guest do a load on its disk, with hooks on `processes`, or without hooks. What that adds to a
/// tree is gone afterwards.
fn in_guest(host: &Host, disk: &str, processes: Option<&str>, load: &str) -> Result<Counts> {
    let fresh = |name| host.fresh_path(name).display().to_string();
    let (stats, socket) = (fresh("stats"), fresh("control"));
    let insight = match processes {
        Some(processes) => format!("on,process={processes}"),
        None => "off".to_owned(),
    };
    let mut vm = Guest::on(host)
        .disk(disk)
        .with(&[
            "--insight",
            &insight,
            "--stats",
            &stats,
            "--control",
            &socket,
        ])
        .boot();
    let shell = vm.shell(&format!(
        "cd /disk && {PROGRAM} {load} && rm -rf out && sync"
    ));
    ensure!(shell.status == 0, "the guest: {load}: {}", shell.text);
    let report = match processes {
        Some(_) => host.run(&format!(
            "{} control '{socket}' insight report --json",
            host.microvm()
        ))?,
        None => r#"{"processes":[]}"#.to_owned(),
    };
    vm.power_off().assert_status(0);
    let stats = serde_json::from_str(&host.run(&format!("cat '{stats}'"))?)?;
    counts(&stats, &serde_json::from_str(&report)?)
}

fn counts(stats: &Value, report: &Value) -> Result<Counts> {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let insight = &stats["insight"];
    let rows = report["processes"].as_array().context("no processes")?;
    let is_load = |row: &&Value| {
        let executable = row["executable"].as_str().unwrap_or_default();
        executable.ends_with(PROGRAM)
    };
    Ok(Counts {
        exits: number(&insight["calls"]) + number(&insight["asked"]),
        data_calls: rows
            .iter()
            .filter(is_load)
            .map(|row| number(&row["reads"]) + number(&row["writes"]))
            .sum(),
    })
}

/// How long a load takes on this machine, in nanoseconds.
fn here(program: &Path, load: &str) -> Result<u64> {
    let directory = Scratch::make("overhead", None)?;
    let run = |load: &str| -> Result<String> {
        let output = Command::new(program)
            .args(load.split_whitespace())
            .current_dir(directory.directory())
            .output()
            .with_context(|| format!("{}: run", program.display()))?;
        ensure!(output.status.success(), "{load}: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    run(TREE)?;
    let said = run(load)?;
    let mut words = said.split_whitespace();
    let ns = words.find_map(|word| word.strip_prefix("ns=")?.parse().ok());
    ns.with_context(|| format!("{PROGRAM}: no time in '{said}'"))
}
