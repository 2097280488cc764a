//! What our server says it did, in the JSON of `--stats`.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// What an engine counted from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct OwnCounts {
    pub(super) syncs_per_flush: f64,
    pub(super) written_ahead_bytes_per_flush: f64,
}

impl OwnCounts {
    /// Reads them, if they are there.
    pub(super) fn read(path: &Path) -> Option<Self> {
        Self::of(&serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?)
    }

    fn of(statistics: &Value) -> Option<Self> {
        let flushes = number(statistics, "flushes").filter(|&flushes| flushes > 0.0)?;
        Some(Self {
            syncs_per_flush: number(statistics, "host_syncs")? / flushes,
            written_ahead_bytes_per_flush: number(statistics, "written_ahead_bytes")? / flushes,
        })
    }
}

/// The number with a name, at whatever depth.
fn number(value: &Value, name: &str) -> Option<f64> {
    let members = value.as_object()?;
    let here = members.get(name).and_then(Value::as_f64);
    here.or_else(|| members.values().find_map(|value| number(value, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_per_flush() {
        let statistics = serde_json::json!({
            "requests": { "flushes": 4 },
            "engine": { "host_syncs": 6, "growth": { "written_ahead_bytes": 4096 } },
        });
        let counts = OwnCounts {
            syncs_per_flush: 1.5,
            written_ahead_bytes_per_flush: 1024.0,
        };
        assert_eq!(OwnCounts::of(&statistics), Some(counts));
        let idle = serde_json::json!({ "flushes": 0, "host_syncs": 1, "written_ahead_bytes": 0 });
        assert_eq!(OwnCounts::of(&idle), None);
    }
}
