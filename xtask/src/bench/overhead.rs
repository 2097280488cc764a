//! `cargo xtask bench overhead`: what hooks on system calls cost the loads that Sky was measured with.
//!
//! An emulated host makes an exit 20 to 30 times as dear as a real one, so that times there say nothing
//! of it. Exits are counted there, in a guest for each load; the time that the load takes without any
//! is that of this machine, where the same program does the same: with all of it in the page cache, which
//! is the worst case, and with its disk, as Sky's loads were.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ::tests::{Guest, Host, Parts};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use images::packages::{Tool, require};
use serde_json::Value;

use super::figures::{median, said_ns};
use super::interrupt::Interrupt;
use super::report::{Report, Section};
use super::scratch::Scratch;

/// What an exit to the program takes on a real host, in seconds.
const EXIT_S: f64 = 1.5e-6;
const PROGRAM: &str = "guest-syscalls";
/// The files that are encrypted, searched and copied.
const TREE: &str = "generate tree 40 64 1024 65536 write 5";
/// How often a load is done here; the median counts.
const RUNS: usize = 5;

/// A load of Sky (Arulraj et al., VEE 2017), as `guest-syscalls` does it.
struct Load {
    name: &'static str,
    /// In the page cache.
    cached: &'static str,
    /// As programs do it whose data is to last.
    durable: &'static str,
}

impl Load {
    const ALL: [Self; 5] = [
        Self::of("encryption", "encrypt tree out", "encrypt tree out"),
        Self::of("file search", "read tree", "read tree"),
        Self::of("file copy", "copy tree out 65536", "copy tree out 65536"),
        Self::of(
            "mail server",
            "generate out 300 1 16 4096 append 7",
            "generate out 300 1 16 4096 deliver 7",
        ),
        Self::of(
            "database",
            "generate out 1 8192 8192 4096 pwrite 9",
            "generate out 1 8192 8192 4096 commit 9",
        ),
    ];

    const fn of(name: &'static str, cached: &'static str, durable: &'static str) -> Self {
        Self {
            name,
            cached,
            durable,
        }
    }
}

#[derive(Args)]
pub(crate) struct Arguments {}

/// What a guest's hooks counted.
#[derive(Clone, Copy)]
struct Counts {
    /// Calls that came to the hooks, and insight-calls, each of which is an exit.
    exits: u64,
    /// Calls that were noted without one.
    noted: u64,
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
        "{:<12} | {:>9} {:>6} | {:>7} {:>7} {:>10} | {:>9} {:>6} | {:>9} {:>6}\n",
        "",
        "unwatched",
        "cost",
        "watched",
        "noted",
        "exits/call",
        "in memory",
        "cost",
        "on disk",
        "cost"
    );
    let idle = |processes| in_guest(&host, &disk, Some(processes), "find tree");
    let (unwatched_idle, watched_idle) = (idle("nobody")?, idle(PROGRAM)?);
    for load in Load::ALL {
        interrupt.check()?;
        let mut unwatched = in_guest(&host, &disk, Some("nobody"), load.cached)?;
        let mut watched = in_guest(&host, &disk, Some(PROGRAM), load.cached)?;
        unwatched.exits = unwatched.exits.saturating_sub(unwatched_idle.exits);
        watched.exits = watched.exits.saturating_sub(watched_idle.exits);
        watched.noted = watched.noted.saturating_sub(watched_idle.noted);
        let here = [
            here_cached(&program, &load)?,
            here_on_disk(&program, &load)?,
        ];
        text += &line(load.name, unwatched, watched, here);
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
        noted: number(&insight["noted"]),
        data_calls: rows
            .iter()
            .filter(is_load)
            .map(|row| number(&row["reads"]) + number(&row["writes"]))
            .sum(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn line(name: &str, unwatched: Counts, watched: Counts, here_s: [f64; 2]) -> String {
    let cost = |exits: u64, s: f64| {
        let percent = exits as f64 * EXIT_S / s * 100.0;
        format!("{percent:.1} %")
    };
    let ms = |s: f64| format!("{:.0} ms", s * 1e3);
    let [cached_s, disk_s] = here_s;
    format!(
        "{name:<12} | {:>9} {:>6} | {:>7} {:>7} {:>10.2} | {:>9} {:>6} | {:>9} {:>6}\n",
        unwatched.exits,
        cost(unwatched.exits, cached_s),
        watched.exits,
        watched.noted,
        watched.exits as f64 / watched.data_calls.max(1) as f64,
        ms(cached_s),
        cost(watched.exits, cached_s),
        ms(disk_s),
        cost(watched.exits, disk_s),
    )
}

/// How long a load takes on this machine whose files are in the page cache, in seconds.
fn here_cached(program: &Path, load: &Load) -> Result<f64> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let directory = Scratch::make("overhead", None)?;
        here(program, directory.directory(), TREE)?;
        let ran = here(program, directory.directory(), load.cached)?;
        runs.push(ran.as_secs_f64());
    }
    Ok(median(runs))
}

/// How long it takes until all is on the disk of this machine, with files that are only there.
fn here_on_disk(program: &Path, load: &Load) -> Result<f64> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let directory = Scratch::make("overhead", None)?;
        here(program, directory.directory(), TREE)?;
        let opened = File::open(directory.directory())?;
        rustix::fs::syncfs(&opened)?;
        leave_the_cache(directory.directory())?;
        let ran = here(program, directory.directory(), load.durable)?;
        let start = Instant::now();
        rustix::fs::syncfs(&opened)?;
        runs.push((ran + start.elapsed()).as_secs_f64());
    }
    Ok(median(runs))
}

/// Has the page cache give up all files below a directory, which are on the disk.
fn leave_the_cache(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            leave_the_cache(&entry.path())?;
        } else {
            let file = File::open(entry.path())?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Does a load in a directory of this machine. How long it says that it took.
fn here(program: &Path, directory: &Path, load: &str) -> Result<Duration> {
    let output = Command::new(program)
        .args(load.split_whitespace())
        .current_dir(directory)
        .output()
        .with_context(|| format!("{}: run", program.display()))?;
    ensure!(output.status.success(), "{load}: {}", output.status);
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(Duration::from_nanos(said_ns(&said)?))
}
