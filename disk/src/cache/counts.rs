//! What a cache has done.

use std::ops::AddAssign;

use crate::disk::add_fields;
use crate::{CLASS_BLOCK_BYTES, Class};

/// Into so many ranges of the same length a disk is divided, to see where it is read.
pub const CACHE_REGIONS: usize = 64;

/// What a cache has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatistics {
    /// With blocks of each class, from the least on.
    pub classes: [CacheCounts; Class::ALL.len()],
    /// In each range of the disk, from its start on.
    pub regions: CacheRegions,
}

/// What a cache has done with some blocks. A block that a request touches in part counts as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Blocks read that were there.
    pub hits: u64,
    /// Blocks read that were not.
    pub misses: u64,
    /// Blocks that came into the cache, by a read or a write.
    pub fills: u64,
    /// Blocks that left it for others.
    pub evictions: u64,
    /// Blocks written that were only in the cache at first.
    pub dirtied: u64,
    /// Blocks that were brought home since.
    pub written_back: u64,
}

/// Reads of one range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionCounts {
    /// Blocks read.
    pub reads: u64,
    /// Those that were in the cache.
    pub hits: u64,
}

/// Reads of each range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRegions(pub [RegionCounts; CACHE_REGIONS]);

impl Default for CacheRegions {
    fn default() -> Self {
        Self([RegionCounts::default(); CACHE_REGIONS])
    }
}

add_fields!(CacheCounts: hits, misses, fills, evictions, dirtied, written_back);
add_fields!(RegionCounts: reads, hits);

impl AddAssign for CacheStatistics {
    fn add_assign(&mut self, other: Self) {
        let Self { classes, regions } = other;
        for (sum, counts) in self.classes.iter_mut().zip(classes) {
            *sum += counts;
        }
        for (sum, counts) in self.regions.0.iter_mut().zip(regions.0) {
            *sum += counts;
        }
    }
}

impl CacheStatistics {
    /// With blocks of all classes.
    pub fn total(&self) -> CacheCounts {
        let mut total = CacheCounts::default();
        for counts in self.classes {
            total += counts;
        }
        total
    }

    /// With blocks of a class.
    pub(super) fn of(&mut self, class: Class) -> &mut CacheCounts {
        &mut self.classes[class as usize]
    }

    /// Counts a block read, of a disk of `size_bytes`.
    pub(super) fn read(&mut self, block: u64, size_bytes: u64, class: Class, is_hit: bool) {
        let counts = self.of(class);
        if is_hit {
            counts.hits += 1;
        } else {
            counts.misses += 1;
        }
        let blocks = size_bytes.div_ceil(CLASS_BLOCK_BYTES).max(1);
        let region = u128::from(block) * CACHE_REGIONS as u128 / u128::from(blocks);
        let region = usize::try_from(region).unwrap_or(usize::MAX);
        if let Some(counts) = self.regions.0.get_mut(region) {
            counts.reads += 1;
            counts.hits += u64::from(is_hit);
        }
    }
}
