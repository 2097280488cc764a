//! What the program counts, written as JSON at its end by `--stats FILE`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::AddAssign;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use devices::virtio::{BlockStatistics, TransportStatistics};
use serde::Serialize;

use crate::output_file;

/// Everything counted in a run of the program, over all boots of its guest.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Statistics {
    /// How often the guest was started: once, and once more for each reset.
    pub(crate) boots: u64,
    pub(crate) exits: ExitCounts,
    /// How many of the exits each device on the bus answered.
    device_exits: BTreeMap<String, u64>,
    /// What each disk did.
    disks: BTreeMap<String, DiskCounts>,
    /// What each virtio device, disks included, cost on its transport.
    virtio: BTreeMap<String, TransportCounts>,
}

/// What a virtio transport did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct TransportCounts {
    /// Interrupts sent to the guest, for queues and for the configuration.
    interrupts: u64,
    /// Doorbells that were exits, in place of events that KVM signals by itself.
    doorbell_exits: u64,
}

impl Statistics {
    /// Adds what one boot counted.
    pub(crate) fn add<'a>(
        &mut self,
        accesses: Vec<(String, u64)>,
        disks: impl Iterator<Item = (&'a str, BlockStatistics)>,
        transports: &[Arc<TransportStatistics>],
    ) {
        for (device, count) in accesses {
            *self.device_exits.entry(device).or_default() += count;
        }
        for (disk, counts) in disks {
            self.disks.entry(disk.to_owned()).or_default().add(&counts);
        }
        for transport in transports {
            let counts = self.virtio.entry(transport.name().to_owned()).or_default();
            counts.interrupts += transport.interrupts();
            counts.doorbell_exits += transport.doorbell_exits();
        }
    }

    /// Writes the statistics to `file`, which is at `path`, in place of what it holds.
    pub(crate) fn write(&self, path: &Path, mut file: &File) -> Result<()> {
        let mut json = serde_json::to_string_pretty(self).context("statistics")?;
        json.push('\n');
        let cannot = || format!("{}: cannot write the statistics", path.display());
        output_file::empty(file).with_context(cannot)?;
        file.write_all(json.as_bytes()).with_context(cannot)
    }
}

/// Opens the file for the statistics, before a guest runs for hours in vain. What it holds stays
/// until the end.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    output_file::open(path)
        .with_context(|| format!("{}: cannot write the statistics", path.display()))
}

/// What one disk did: requests as the guest made them, and what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct DiskCounts {
    reads: u64,
    read_bytes: u64,
    writes: u64,
    written_bytes: u64,
    flushes: u64,
    discards: u64,
    write_zeroes: u64,
    errors: u64,
    /// Times that a doorbell woke the disk's thread.
    doorbells: u64,
    /// Completions that needed no interrupt of their own.
    interrupts_saved: u64,
    /// Times that the host was asked to make data durable.
    host_syncs: u64,
}

impl DiskCounts {
    fn add(&mut self, counts: &BlockStatistics) {
        self.reads += counts.reads;
        self.read_bytes += counts.read_bytes;
        self.writes += counts.writes;
        self.written_bytes += counts.written_bytes;
        self.flushes += counts.flushes;
        self.discards += counts.discards;
        self.write_zeroes += counts.write_zeroes;
        self.errors += counts.errors;
        self.doorbells += counts.doorbells;
        self.interrupts_saved += counts.interrupts_saved;
        self.host_syncs += counts.disk.map_or(0, |disk| disk.host_syncs);
    }
}

/// Exits from guest code to this program, which KVM could not handle by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ExitCounts {
    /// `IN` instructions.
    pub(crate) port_reads: u64,
    /// `OUT` instructions.
    pub(crate) port_writes: u64,
    /// Reads of device registers in memory.
    pub(crate) memory_reads: u64,
    /// Writes of device registers in memory.
    pub(crate) memory_writes: u64,
    /// Returns asked for by this program, to pause or to stop.
    pub(crate) kicks: u64,
}

impl AddAssign for ExitCounts {
    fn add_assign(&mut self, other: Self) {
        self.port_reads += other.port_reads;
        self.port_writes += other.port_writes;
        self.memory_reads += other.memory_reads;
        self.memory_writes += other.memory_writes;
        self.kicks += other.kicks;
    }
}
