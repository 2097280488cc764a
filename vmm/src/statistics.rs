//! What the program counts, written as JSON at its end by `--stats FILE`.

mod cache;
mod disk;
mod file;
mod images;

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

use devices::virtio::{BlockStatistics, TransportStatistics};
use serde::Serialize;

use crate::insight::InsightCounts;

pub(crate) use disk::DiskCounts;
use disk::GuestDiskCounts;
pub(crate) use file::StatisticsFile;

/// Everything counted in a run of the program, over all boots of its guest.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Statistics {
    /// How often the guest was started: once, and once more for each reset.
    pub(crate) boots: u64,
    pub(crate) exits: ExitCounts,
    /// What the hooks on system calls did, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) insight: Option<InsightCounts>,
    /// How many of the exits each device on the bus answered.
    device_exits: BTreeMap<String, u64>,
    /// What each disk did.
    disks: BTreeMap<String, GuestDiskCounts>,
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
    /// System calls of watched processes, and insight-calls that came back.
    pub(crate) system_calls: u64,
    /// Returns asked for by this program, to pause or to stop.
    pub(crate) kicks: u64,
}

impl AddAssign for ExitCounts {
    fn add_assign(&mut self, other: Self) {
        self.port_reads += other.port_reads;
        self.port_writes += other.port_writes;
        self.memory_reads += other.memory_reads;
        self.memory_writes += other.memory_writes;
        self.system_calls += other.system_calls;
        self.kicks += other.kicks;
    }
}
