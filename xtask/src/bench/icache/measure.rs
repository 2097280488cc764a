//! One guest that does one load on one disk.

use std::fmt::Write as _;

use ::tests::loads::Load;
use ::tests::{Guest, Host, Vm};
use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::counts::Counts;
use super::slow::Slow;
use crate::bench::figures::said_ns;

/// A cache, and what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cache {
    pub(super) policy: &'static str,
    /// By hooks on system calls and what the disk itself tells; else nothing, and without hooks.
    pub(super) has_classes: bool,
}

/// What was seen of a guest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    /// How long the counted rounds took.
    pub(super) ns: u64,
    /// How much of that the emulated host's processor had something to do.
    pub(super) worked_ns: u64,
    /// What reached the slow storage in them.
    pub(super) slow: Counts,
    /// Blocks read in all rounds, and those that the cache had.
    pub(super) blocks: u64,
    pub(super) hits: u64,
    /// The same of metadata, as far as it was known.
    pub(super) metadata: u64,
    pub(super) metadata_hits: u64,
}

/// Has a guest do rounds of a load on `slow`, behind a cache of so many bytes, if there is one.
pub(super) fn measure(
    host: &Host,
    slow: Slow<'_>,
    load: Load,
    cache: Option<(Cache, u64)>,
) -> Result<Measured> {
    let stats = host.fresh_path("stats").display().to_string();
    let mut disk = slow.argument();
    let mut insight = "off";
    if let Some((cache, bytes)) = cache {
        let classes = if cache.has_classes { "on" } else { "off" };
        insight = classes;
        let policy = cache.policy;
        let _ = write!(
            disk,
            ",cache={bytes},cache-policy={policy},cache-classes={classes}"
        );
    }
    let mut vm = Guest::on(host)
        .disk(&disk)
        .with(&["--insight", insight, "--stats", &stats])
        .boot();
    // To look at a file is no reason to write to the disk.
    must(&mut vm, "mount -o remount,noatime /disk")?;
    let (first, counted) = load.rounds();
    work(&mut vm, load, 0, first)?;
    let (before, idle_ns_before) = (slow.counts()?, idle_ns(host)?);
    let ns = work(&mut vm, load, first, counted)?;
    let idle_ns = idle_ns(host)? - idle_ns_before;
    let reached = slow.counts()? - before;
    vm.power_off().assert_status(0);
    slow.end()?;
    let stats: Value = serde_json::from_str(&host.run(&format!("cat '{stats}'"))?)?;
    let counted = &stats["disks"]["blk0"]["cache"];
    let number = |value: &Value, name: &str| value[name].as_u64().unwrap_or(0);
    let metadata = &counted["classes"]["metadata"];
    let (hits, metadata_hits) = (number(counted, "hits"), number(metadata, "hits"));
    Ok(Measured {
        ns,
        worked_ns: ns.saturating_sub(idle_ns),
        slow: reached,
        blocks: hits + number(counted, "misses"),
        hits,
        metadata: metadata_hits + number(metadata, "misses"),
        metadata_hits,
    })
}

/// How long the emulated host's processor has been idle since its boot, by the hundredths of a second that
/// its kernel counts.
fn idle_ns(host: &Host) -> Result<u64> {
    const TICK_NS: u64 = 10_000_000;
    let stat = host.run("head -n 1 /proc/stat")?;
    // Of `cpu user nice system idle iowait ...`.
    let mut ticks = stat.split_whitespace().skip(4).map(str::parse::<u64>);
    match (ticks.next(), ticks.next()) {
        (Some(Ok(idle)), Some(Ok(for_disks))) => Ok((idle + for_disks) * TICK_NS),
        _ => bail!("/proc/stat: says nothing of idle time: {stat}"),
    }
}

/// Has the guest do rounds; how long they took it, in nanoseconds.
fn work(vm: &mut Vm, load: Load, first: u64, rounds: u64) -> Result<u64> {
    let said = must(
        vm,
        &format!("guest-syscalls load {load} /disk {first} {rounds}"),
    )?;
    said_ns(&said)
}

/// Has the guest's shell do something; what it says.
fn must(vm: &mut Vm, command: &str) -> Result<String> {
    let shell = vm.shell(command);
    ensure!(shell.status == 0, "the guest: {command}: {}", shell.text);
    Ok(shell.text)
}
