//! What a disk did: the requests made of it, and what they cost the host.

use devices::virtio::BlockStatistics;
use serde::{Serialize, Serializer};

use super::cache::CacheCounts;

/// What one disk did, as far as it does not matter who uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DiskCounts {
    #[serde(flatten)]
    requests: RequestCounts,
    #[serde(flatten)]
    engine: EngineCounts,
}

/// What one disk of a guest did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct GuestDiskCounts {
    #[serde(flatten)]
    disk: DiskCounts,
    /// Times that a doorbell woke the disk's thread.
    doorbells: u64,
    /// Completions that needed no interrupt of their own.
    interrupts_saved: u64,
}

/// Requests, as whoever uses the disk made them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct RequestCounts {
    reads: u64,
    read_bytes: u64,
    writes: u64,
    written_bytes: u64,
    flushes: u64,
    discards: u64,
    write_zeroes: u64,
    errors: u64,
}

/// What the disk engine made of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct EngineCounts {
    /// Times that the host was asked to make data durable.
    host_syncs: u64,
    /// Times that the host was asked to keep writes in order only.
    barriers: u64,
    /// Bytes of the format's own tables written to their places.
    metadata_bytes: u64,
    journal: JournalCounts,
    growth: GrowthCounts,
    copies: CopyCounts,
    /// Absent where nothing was looked for.
    #[serde(skip_serializing_if = "DedupCounts::is_empty")]
    dedup: DedupCounts,
    /// Absent where there was no cache.
    #[serde(skip_serializing_if = "CacheCounts::is_empty")]
    cache: CacheCounts,
    /// Only where blocks are told apart.
    #[serde(skip_serializing_if = "ClassesCounts::is_empty")]
    classes: ClassesCounts,
}

/// [`disk::ClassStatistics`], by the names of the classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ClassesCounts(disk::ClassStatistics);

/// [`disk::ClassCounts`].
#[derive(Serialize)]
struct ClassCounts {
    reads: u64,
    read_bytes: u64,
    writes: u64,
    written_bytes: u64,
}

/// [`disk::JournalStatistics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct JournalCounts {
    transactions: u64,
    marks: u64,
    checksummed_blocks: u64,
    full_blocks: u64,
    written_bytes: u64,
    checkpoints: u64,
    checkpoints_forced: u64,
    checkpoint_bytes: u64,
    data_syncs: u64,
    recovered_transactions: u64,
    recovery_ns: u64,
}

/// [`disk::CopyStatistics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct CopyCounts {
    on_read_bytes: u64,
    prefetched_bytes: u64,
}

/// [`disk::DedupStatistics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the unit is a part of the name")]
struct DedupCounts {
    looked_up_bytes: u64,
    shared_bytes: u64,
    unique_bytes: u64,
    prefetched_bytes: u64,
}

impl DedupCounts {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// [`disk::GrowthStatistics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct GrowthCounts {
    written_ahead_bytes: u64,
    given_back_bytes: u64,
}

impl From<&disk::Statistics> for DiskCounts {
    fn from(counts: &disk::Statistics) -> Self {
        let mut engine = EngineCounts::default();
        engine.add(counts);
        Self {
            requests: RequestCounts {
                reads: counts.reads,
                read_bytes: counts.read_bytes,
                writes: counts.writes,
                written_bytes: counts.written_bytes,
                flushes: counts.flushes,
                discards: counts.discards,
                write_zeroes: counts.write_zeroes,
                errors: counts.errors,
            },
            engine,
        }
    }
}

impl GuestDiskCounts {
    /// Adds what the disk counted in one boot.
    pub(super) fn add(&mut self, counts: &BlockStatistics) {
        self.disk.requests.add(counts);
        if let Some(engine) = &counts.disk {
            self.disk.engine.add(engine);
        }
        self.doorbells += counts.doorbells;
        self.interrupts_saved += counts.interrupts_saved;
    }
}

impl RequestCounts {
    fn add(&mut self, counts: &BlockStatistics) {
        self.reads += counts.reads;
        self.read_bytes += counts.read_bytes;
        self.writes += counts.writes;
        self.written_bytes += counts.written_bytes;
        self.flushes += counts.flushes;
        self.discards += counts.discards;
        self.write_zeroes += counts.write_zeroes;
        self.errors += counts.errors;
    }
}

impl EngineCounts {
    fn add(&mut self, counts: &disk::Statistics) {
        self.host_syncs += counts.host_syncs;
        self.barriers += counts.barriers;
        self.metadata_bytes += counts.metadata_bytes;
        self.journal.add(&counts.journal);
        self.growth.add(&counts.growth);
        self.copies.add(&counts.copies);
        self.dedup.add(&counts.dedup);
        self.cache.add(&counts.cache);
        self.classes.0 += counts.classes;
    }
}

impl ClassesCounts {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for ClassesCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(disk::Class::ALL.map(|class| {
            let counts = self.0[class];
            let counts = ClassCounts {
                reads: counts.reads,
                read_bytes: counts.read_bytes,
                writes: counts.writes,
                written_bytes: counts.written_bytes,
            };
            (class.name(), counts)
        }))
    }
}

impl JournalCounts {
    fn add(&mut self, counts: &disk::JournalStatistics) {
        self.transactions += counts.transactions;
        self.marks += counts.marks;
        self.checksummed_blocks += counts.checksummed_blocks;
        self.full_blocks += counts.full_blocks;
        self.written_bytes += counts.written_bytes;
        self.checkpoints += counts.checkpoints;
        self.checkpoints_forced += counts.checkpoints_forced;
        self.checkpoint_bytes += counts.checkpoint_bytes;
        self.data_syncs += counts.data_syncs;
        self.recovered_transactions += counts.recovered_transactions;
        self.recovery_ns += counts.recovery_ns;
    }
}

impl GrowthCounts {
    fn add(&mut self, counts: &disk::GrowthStatistics) {
        self.written_ahead_bytes += counts.written_ahead_bytes;
        self.given_back_bytes += counts.given_back_bytes;
    }
}

impl DedupCounts {
    fn add(&mut self, counts: &disk::DedupStatistics) {
        self.looked_up_bytes += counts.looked_up_bytes;
        self.shared_bytes += counts.shared_bytes;
        self.unique_bytes += counts.unique_bytes;
        self.prefetched_bytes += counts.prefetched_bytes;
    }
}

impl CopyCounts {
    fn add(&mut self, counts: &disk::CopyStatistics) {
        self.on_read_bytes += counts.on_read_bytes;
        self.prefetched_bytes += counts.prefetched_bytes;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn engine() -> disk::Statistics {
        disk::Statistics {
            reads: 1,
            read_bytes: 2,
            writes: 3,
            written_bytes: 4,
            flushes: 5,
            discards: 6,
            write_zeroes: 7,
            errors: 8,
            host_syncs: 9,
            barriers: 10,
            metadata_bytes: 11,
            journal: disk::JournalStatistics {
                transactions: 12,
                marks: 13,
                checksummed_blocks: 14,
                full_blocks: 15,
                written_bytes: 16,
                checkpoints: 17,
                checkpoints_forced: 18,
                checkpoint_bytes: 19,
                data_syncs: 20,
                recovered_transactions: 21,
                recovery_ns: 22,
            },
            growth: disk::GrowthStatistics {
                written_ahead_bytes: 23,
                given_back_bytes: 24,
            },
            copies: disk::CopyStatistics {
                on_read_bytes: 25,
                prefetched_bytes: 26,
            },
            dedup: disk::DedupStatistics {
                looked_up_bytes: 27,
                shared_bytes: 28,
                unique_bytes: 29,
                prefetched_bytes: 30,
            },
            cache: disk::CacheStatistics::default(),
            classes: disk::ClassStatistics::default(),
        }
    }

    #[test]
    fn classes_are_told_where_there_are_some() {
        let mut statistics = engine();
        let counts = serde_json::to_value(DiskCounts::from(&statistics)).unwrap();
        assert_eq!(counts.get("classes"), None);
        statistics.classes[disk::Class::Metadata] = disk::ClassCounts {
            reads: 27,
            read_bytes: 28,
            writes: 29,
            written_bytes: 30,
        };
        let counts = serde_json::to_value(DiskCounts::from(&statistics)).unwrap();
        assert_eq!(
            counts["classes"]["metadata"],
            json!({"reads": 27, "read_bytes": 28, "writes": 29, "written_bytes": 30})
        );
        assert_eq!(counts["classes"]["other"]["reads"], 0);
    }

    /// The engine's own counts, `times` over.
    fn with_engine(mut object: Value, times: u64) -> Value {
        object["host_syncs"] = json!(9 * times);
        object["barriers"] = json!(10 * times);
        object["metadata_bytes"] = json!(11 * times);
        object["journal"] = json!({
            "transactions": 12 * times,
            "marks": 13 * times,
            "checksummed_blocks": 14 * times,
            "full_blocks": 15 * times,
            "written_bytes": 16 * times,
            "checkpoints": 17 * times,
            "checkpoints_forced": 18 * times,
            "checkpoint_bytes": 19 * times,
            "data_syncs": 20 * times,
            "recovered_transactions": 21 * times,
            "recovery_ns": 22 * times,
        });
        object["growth"] = json!({
            "written_ahead_bytes": 23 * times,
            "given_back_bytes": 24 * times,
        });
        object["copies"] = json!({
            "on_read_bytes": 25 * times,
            "prefetched_bytes": 26 * times,
        });
        object["dedup"] = json!({
            "looked_up_bytes": 27 * times,
            "shared_bytes": 28 * times,
            "unique_bytes": 29 * times,
            "prefetched_bytes": 30 * times,
        });
        object
    }

    #[test]
    fn everything_that_the_engine_counts_is_told() {
        let requests = json!({
            "reads": 1, "read_bytes": 2, "writes": 3, "written_bytes": 4,
            "flushes": 5, "discards": 6, "write_zeroes": 7, "errors": 8,
        });
        let counts = serde_json::to_value(DiskCounts::from(&engine())).unwrap();
        assert_eq!(counts, with_engine(requests, 1));
    }

    #[test]
    fn boots_add_up() {
        let boot = BlockStatistics {
            reads: 31,
            read_bytes: 32,
            writes: 33,
            written_bytes: 34,
            flushes: 35,
            discards: 36,
            write_zeroes: 37,
            errors: 38,
            doorbells: 39,
            interrupts_saved: 40,
            disk: Some(engine()),
            ..BlockStatistics::default()
        };
        // One whose disk was never closed has nothing of the engine.
        let lost = BlockStatistics { disk: None, ..boot };
        let mut counts = GuestDiskCounts::default();
        for boot in [boot, boot, lost] {
            counts.add(&boot);
        }
        let requests = json!({
            "reads": 93, "read_bytes": 96, "writes": 99, "written_bytes": 102,
            "flushes": 105, "discards": 108, "write_zeroes": 111, "errors": 114,
            "doorbells": 117, "interrupts_saved": 120,
        });
        let counts = serde_json::to_value(counts).unwrap();
        assert_eq!(counts, with_engine(requests, 2));
    }
}
