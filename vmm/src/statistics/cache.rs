//! What the cache in front of a disk did.

use std::collections::BTreeMap;

use disk::Class;
use disk::cache::{self, CacheRegions, CacheStatistics, RegionCounts};
use serde::Serialize;

/// [`CacheStatistics`]: blocks of 4 KiB, in all, by class, and reads by range of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheCounts(CacheStatistics);

/// As it is written.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    total: Counts,
    /// Those classes of which there was anything.
    classes: BTreeMap<&'static str, Counts>,
    /// Each a range of the disk, all of one length: blocks read, and those that were there.
    regions: Vec<[u64; 2]>,
}

/// [`cache::CacheCounts`].
#[derive(PartialEq, Eq, Serialize)]
struct Counts {
    hits: u64,
    misses: u64,
    fills: u64,
    evictions: u64,
    dirtied: u64,
    written_back: u64,
}

impl CacheCounts {
    pub(super) fn add(&mut self, counts: &CacheStatistics) {
        self.0 += *counts;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == CacheStatistics::default()
    }
}

impl Serialize for CacheCounts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = Class::ALL.iter().zip(self.0.classes);
        let used = named.filter(|(_, counts)| *counts != cache::CacheCounts::default());
        let CacheRegions(regions) = self.0.regions;
        let report = Report {
            total: self.0.total().into(),
            classes: used
                .map(|(class, counts)| (class.name(), counts.into()))
                .collect(),
            regions: regions
                .iter()
                .map(|RegionCounts { reads, hits }| [*reads, *hits])
                .collect(),
        };
        report.serialize(serializer)
    }
}

impl From<cache::CacheCounts> for Counts {
    fn from(counts: cache::CacheCounts) -> Self {
        let cache::CacheCounts {
            hits,
            misses,
            fills,
            evictions,
            dirtied,
            written_back,
        } = counts;
        Self {
            hits,
            misses,
            fills,
            evictions,
            dirtied,
            written_back,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cache_is_told_of_by_class_and_in_all() {
        let mut statistics = CacheStatistics::default();
        statistics.classes[Class::Metadata as usize] = cache::CacheCounts {
            hits: 1,
            misses: 2,
            fills: 3,
            evictions: 4,
            dirtied: 5,
            written_back: 6,
        };
        statistics.classes[Class::Other as usize].hits = 10;
        statistics.regions.0[1] = RegionCounts { reads: 7, hits: 3 };
        let mut counts = CacheCounts::default();
        assert!(counts.is_empty());
        counts.add(&statistics);
        assert!(!counts.is_empty());
        let found = serde_json::to_value(counts).unwrap();
        assert_eq!(
            (&found["hits"], &found["written_back"]),
            (&json!(11), &json!(6))
        );
        let metadata = json!({
            "hits": 1, "misses": 2, "fills": 3, "evictions": 4, "dirtied": 5, "written_back": 6,
        });
        assert_eq!(found["classes"]["metadata"], metadata);
        assert_eq!(found["classes"].as_object().unwrap().len(), 2);
        assert_eq!(found["regions"][1], json!([7, 3]));
        assert_eq!(found["regions"].as_array().unwrap().len(), 64);
    }
}
