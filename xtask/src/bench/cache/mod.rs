//! `cargo xtask bench cache`: a disk with heads, without a cache and with caches of several kinds.
//!
//! Only the disk takes time, by [`disk::LatencyModel::hdd`]: a block in the cache takes none. The
//! workloads are small models, which each say what they model, and what class each block has is
//! known; the figures tell how long a guest waits for its disk, and are the same in every run.

mod workload;

use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;

use ::disk::cache::{CacheOptions, PolicyKind};
use ::disk::{Backend, Disk, Error, Executor, LatencyModel, Raw, SimulatedStorage};
use anyhow::Result;
use clap::Args;

use super::report::{Report, Section};
use workload::{DISK_BYTES, Workload};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many operations each workload does
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(1..))]
    operations: u32,
}

/// The caches' sizes, in hundredths of the data.
const SIZES: [u64; 3] = [1, 5, 10];

/// What leaves a full cache, and whether classes matter.
const CACHES: [(&str, PolicyKind, bool); 4] = [
    ("lru", PolicyKind::Lru, false),
    ("s3-fifo", PolicyKind::S3Fifo, false),
    ("lru, classes", PolicyKind::Lru, true),
    ("s3-fifo, classes", PolicyKind::S3Fifo, true),
];

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let tables = table(arguments.operations)?;
    report.add(Section {
        title: "A cache in front of a disk with heads: time without it, by time with it".to_owned(),
        tables,
        charts: Vec::new(),
    });
    Ok(())
}

/// A line for each workload and each size.
fn table(operations: u32) -> Result<String> {
    let mut text = format!("{:<24} {:>5} {:>9}", "", "cache", "no cache");
    for (name, ..) in CACHES {
        let _ = write!(text, " {name:>18}");
    }
    text.push('\n');
    for workload in Workload::ALL {
        let (without_ns, _) = time(workload, operations, None)?;
        for size in SIZES {
            let seconds = Seconds(without_ns);
            let _ = write!(text, "{:<24} {size:>4}% {seconds:>7} s", workload.name());
            for (_, policy, by_class) in CACHES {
                let options = CacheOptions::new(DISK_BYTES / 100 * size)
                    .policy(policy)
                    .by_class(by_class);
                let (with_ns, hits) = time(workload, operations, Some(options))?;
                let ratio = Ratio(without_ns, with_ns).to_string();
                let _ = write!(text, " {:>18}", format!("{ratio} ({hits:>2}% hits)"));
            }
            text.push('\n');
        }
    }
    Ok(text)
}

/// Nanoseconds, shown as seconds.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tenths = self.0 / 100_000_000;
        f.pad(&format!("{}.{}", tenths / 10, tenths % 10))
    }
}

/// One time by another, in hundredths.
struct Ratio(u64, u64);

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hundredths = self.0.saturating_mul(100) / self.1.max(1);
        f.pad(&format!("{}.{:02}", hundredths / 100, hundredths % 100))
    }
}

/// How long a workload takes, in virtual time, and how many of a hundred blocks read were cached.
fn time(workload: Workload, operations: u32, cache: Option<CacheOptions>) -> Result<(u64, u64)> {
    let executor = Executor::with_backend(Backend::Simulated { seed: 1 })?;
    let hits = executor.run(async {
        let storage = SimulatedStorage::new(DISK_BYTES, 1);
        storage.set_latency(LatencyModel::hdd());
        let raw = async || Ok(Rc::new(Raw::new(storage)?) as Rc<dyn Disk>);
        let disk: Rc<dyn Disk> = match cache {
            Some(options) => Rc::new(options.open(Path::new("simulated disk"), raw).await?),
            None => raw().await?,
        };
        workload.run(disk.as_ref(), operations).await?;
        let counts = disk.statistics().cache.total();
        Ok::<_, Error>(counts.hits * 100 / (counts.hits + counts.misses).max(1))
    })?;
    Ok((executor.virtual_now_ns().unwrap_or(0), hits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_the_same_every_time() {
        let first = table(200).unwrap();
        assert_eq!(first.lines().count(), 1 + Workload::ALL.len() * SIZES.len());
        assert_eq!(first, table(200).unwrap());
    }
}
