//! `cargo xtask bench dedup`: a guest copies or encrypts a large file that has nothing twice, on a
//! qcow2 image that stores alike data once, with an index of several sizes, with hints and without.
//!
//! The disk is one with heads, in virtual time ([`disk::LatencyModel::hdd`]), which the processor's work
//! does not add to: that is measured, and shown beside it. The guest reads ahead by pieces, and
//! writes behind by larger ones, as a page cache does.

use std::fmt::Write as _;
use std::time::Duration;

use ::disk::qcow2::{CreateOptions, DedupOptions, Parts, Qcow2, create};
use ::disk::{
    Backend, Buffers, DedupHint, Disk, Error, Executor, LatencyModel, Request, SimulatedStorage,
};
use anyhow::Result;
use clap::Args;

use super::cpu_time::cpu_time;
use super::model::random::Random;
use super::report::{Report, Section};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How large the file is, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 500,
          value_parser = clap::value_parser!(u32).range(32..))]
    megabytes: u32,
}

/// The clusters of the image, as a power of two: the blocks of the guest's file system.
const CLUSTER_BITS: u32 = 12;
/// What an entry of the index takes.
const ENTRY_BYTES: u64 = 64;
/// What the guest reads at once.
const READ_BYTES: u64 = 128 << 10;
/// What it writes at once.
const WRITE_BYTES: u64 = 1 << 20;
/// What it has read when it begins to write.
const BEHIND_BYTES: u64 = 32 << 20;
/// The sizes of the index, in hundredths of what the file needs.
const SIZES: [u64; 3] = [1, 10, 110];

/// What the guest does with the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    Copy,
    Encrypt,
}

/// What came of it.
struct Outcome {
    virtual_ns: u64,
    written_bytes: u64,
    processor: Duration,
}

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let tables = table(u64::from(arguments.megabytes) << 20)?;
    report.add(Section {
        title: format!(
            "A file of {} MiB that has nothing twice, copied and encrypted on a disk with heads",
            arguments.megabytes
        ),
        tables,
        charts: Vec::new(),
    });
    Ok(())
}

fn table(file_bytes: u64) -> Result<String> {
    let mut text = format!(
        "{:<9} {:<6} {:<6} {:>9} {:>12} {:>11}  {}\n",
        "",
        "index",
        "hints",
        "disk",
        "written",
        "processor",
        "without hints by with: disk, processor"
    );
    for (load, name) in [(Load::Copy, "copy"), (Load::Encrypt, "encrypt")] {
        let without = measure(load, file_bytes, None, false)?;
        line(&mut text, name, "none", "", &without, None);
        for size in SIZES {
            let index_bytes = (file_bytes >> CLUSTER_BITS) * ENTRY_BYTES * size / 100;
            let plain = measure(load, file_bytes, Some(index_bytes), false)?;
            let hinted = measure(load, file_bytes, Some(index_bytes), true)?;
            let size = format!("{size}%");
            line(&mut text, name, &size, "no", &plain, None);
            line(&mut text, name, &size, "yes", &hinted, Some(&plain));
        }
    }
    Ok(text)
}

fn line(
    text: &mut String,
    load: &str,
    index: &str,
    hints: &str,
    outcome: &Outcome,
    without: Option<&Outcome>,
) {
    let tenths = outcome.virtual_ns / 100_000_000;
    let _ = write!(
        text,
        "{load:<9} {index:<6} {hints:<6} {:>7}.{} s {:>8} MiB {:>9.2} s",
        tenths / 10,
        tenths % 10,
        outcome.written_bytes >> 20,
        outcome.processor.as_secs_f64(),
    );
    if let Some(without) = without {
        let hundredths = without.virtual_ns * 100 / outcome.virtual_ns.max(1);
        let processor = without.processor.as_secs_f64() / outcome.processor.as_secs_f64();
        let _ = write!(
            text,
            "  {}.{:02} {processor:>6.2}",
            hundredths / 100,
            hundredths % 100
        );
    }
    text.push('\n');
}

/// Has the file written, and then does `load` with it, of which the figures are.
fn measure(load: Load, file_bytes: u64, index_bytes: Option<u64>, hints: bool) -> Result<Outcome> {
    let executor = Executor::with_backend(Backend::Simulated { seed: 1 })?;
    let storage = SimulatedStorage::new(0, 1);
    let disk = executor.run(async {
        let disk = image(&storage, file_bytes, index_bytes).await?;
        let mut random = Random::new(1);
        for at in (0..file_bytes).step_by(bytes(WRITE_BYTES)) {
            let data = unique(&mut random, WRITE_BYTES.min(file_bytes - at));
            disk.submit(Request::write(at, data)).await?;
        }
        disk.submit(Request::flush()).await?;
        storage.set_latency(LatencyModel::hdd());
        Ok::<_, Error>(disk)
    })?;
    let began_ns = executor.virtual_now_ns().unwrap_or(0);
    let (written, processor) = (
        storage.counters().written_bytes,
        cpu_time(std::process::id())?,
    );
    executor.run(async {
        process(load, &disk, file_bytes, hints).await?;
        disk.close().await
    })?;
    Ok(Outcome {
        virtual_ns: executor.virtual_now_ns().unwrap_or(0) - began_ns,
        written_bytes: storage.counters().written_bytes - written,
        processor: cpu_time(std::process::id())?.saturating_sub(processor),
    })
}

async fn image(
    storage: &SimulatedStorage,
    file_bytes: u64,
    index_bytes: Option<u64>,
) -> Result<Qcow2<SimulatedStorage>, Error> {
    let mut options = CreateOptions::new(2 * file_bytes);
    options.cluster_bits = CLUSTER_BITS;
    create(storage, &options).await?;
    let parts = Parts {
        dedup: index_bytes.map(|index_bytes| DedupOptions {
            index_bytes,
            key: [1; 32],
        }),
        ..Parts::default()
    };
    Qcow2::open(storage.clone(), parts).await
}

/// Reads the file from its start on, and writes what becomes of it behind it.
async fn process(load: Load, disk: &dyn Disk, file_bytes: u64, hints: bool) -> Result<(), Error> {
    let (reads, writes) = match load {
        _ if !hints => (DedupHint::None, DedupHint::None),
        Load::Copy => (DedupHint::Prefetch, DedupHint::Prefetch),
        Load::Encrypt => (DedupHint::None, DedupHint::NoDedup),
    };
    let mut random = Random::new(2);
    for start in (0..file_bytes).step_by(bytes(BEHIND_BYTES)) {
        let end = (start + BEHIND_BYTES).min(file_bytes);
        let all = Buffers::zeroed(bytes(end - start));
        for at in (start..end).step_by(bytes(READ_BYTES)) {
            let part = part(&all, start, at, READ_BYTES.min(end - at));
            let request = Request::read(at, part).with_dedup_hint(reads);
            disk.submit(request).await?;
        }
        for at in (start..end).step_by(bytes(WRITE_BYTES)) {
            let len = WRITE_BYTES.min(end - at);
            let data = match load {
                Load::Copy => part(&all, start, at, len),
                Load::Encrypt => unique(&mut random, len),
            };
            let request = Request::write(file_bytes + at, data).with_dedup_hint(writes);
            disk.submit(request).await?;
        }
        disk.submit(Request::flush()).await?;
    }
    Ok(())
}

fn part(all: &Buffers, start: u64, at: u64, len: u64) -> Buffers {
    all.slice(bytes(at - start)..bytes(at - start + len))
}

/// Data of which no cluster is like another.
fn unique(random: &mut Random, len: u64) -> Buffers {
    let words = (0..len / 8).flat_map(|_| random.below(u64::MAX).to_le_bytes());
    Buffers::from_vec(words.collect::<Vec<u8>>())
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: u64 = 32 << 20;

    /// What is copied is not written where a hint says so, however small the index is.
    #[test]
    fn hints_make_up_for_memory() {
        let index_bytes = Some(FILE_BYTES / 4096 * ENTRY_BYTES);
        let none = measure(Load::Copy, FILE_BYTES, None, false).unwrap();
        assert!(none.written_bytes > FILE_BYTES);
        let hinted = measure(Load::Copy, FILE_BYTES, index_bytes, true).unwrap();
        assert!(hinted.written_bytes < FILE_BYTES / 4);
        let encrypted = measure(Load::Encrypt, FILE_BYTES, index_bytes, true).unwrap();
        assert!(encrypted.written_bytes > FILE_BYTES);
    }
}
