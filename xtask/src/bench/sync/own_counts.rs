//! What our server says it did, in the JSON of `--stats`.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// What a full block is, for a journal.
const JOURNAL_BLOCK_BYTES: f64 = 4096.0;

/// What an engine counted from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::bench) struct OwnCounts {
    pub(in crate::bench) syncs_per_flush: Option<f64>,
    pub(super) written_ahead_bytes_per_flush: Option<f64>,
    /// Tables and records of a journal, without the data that records hold.
    pub(in crate::bench) metadata_bytes_per_write: Option<f64>,
}

impl OwnCounts {
    /// Reads them, if they are there.
    pub(super) fn read(path: &Path) -> Option<Self> {
        Some(Self::of(
            &serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?,
        ))
    }

    fn of(statistics: &Value) -> Self {
        let number = |name| find(statistics, name)?.as_f64();
        let per = |count: Option<f64>, others| Some(count? / number(others).filter(|&n| n > 0.0)?);
        Self {
            syncs_per_flush: per(number("host_syncs"), "flushes"),
            written_ahead_bytes_per_flush: per(number("written_ahead_bytes"), "flushes"),
            metadata_bytes_per_write: per(metadata_bytes(statistics), "writes"),
        }
    }
}

fn metadata_bytes(statistics: &Value) -> Option<f64> {
    let journal = find(statistics, "journal")?;
    let recorded = journal["written_bytes"].as_f64()?;
    let data = journal["full_blocks"].as_f64()? * JOURNAL_BLOCK_BYTES;
    Some(find(statistics, "metadata_bytes")?.as_f64()? + recorded - data)
}

/// What has a name, at whatever depth.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let members = value.as_object()?;
    let here = members.get(name);
    here.or_else(|| members.values().find_map(|value| find(value, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_per_flush_and_per_write() {
        let statistics = serde_json::json!({
            "requests": { "writes": 2, "written_bytes": 8192, "flushes": 4 },
            "engine": {
                "host_syncs": 6,
                "metadata_bytes": 100,
                "journal": { "full_blocks": 1, "written_bytes": 4196 },
                "growth": { "written_ahead_bytes": 4096 },
            },
        });
        let counts = OwnCounts {
            syncs_per_flush: Some(1.5),
            written_ahead_bytes_per_flush: Some(1024.0),
            metadata_bytes_per_write: Some(100.0),
        };
        assert_eq!(OwnCounts::of(&statistics), counts);
        let idle = serde_json::json!({ "flushes": 0, "host_syncs": 1, "written_ahead_bytes": 0 });
        assert_eq!(OwnCounts::of(&idle).syncs_per_flush, None);
    }
}
