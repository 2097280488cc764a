//! What a server has said of holes and zeros, which does not change.

use crate::storage::StorageExtent;

/// Stretches that follow each other.
#[derive(Default)]
pub(super) struct Extents {
    start: u64,
    /// Where each ends, and whether it is data.
    ends: Vec<(u64, bool)>,
}

impl Extents {
    /// What follows from `start` on.
    pub(super) fn new(start: u64, extents: Vec<StorageExtent>) -> Self {
        let mut end = start;
        let ends = extents.into_iter().map(|extent| {
            end = extent.len.saturating_add(end);
            (end, extent.data)
        });
        Self {
            start,
            ends: ends.collect(),
        }
    }

    /// What is at `offset` within `len` bytes, if that is known.
    pub(super) fn at(&self, offset: u64, len: u64) -> Option<StorageExtent> {
        if offset < self.start {
            return None;
        }
        let index = self.ends.partition_point(|(end, _)| *end <= offset);
        let (end, data) = *self.ends.get(index)?;
        Some(StorageExtent {
            len: len.min(end - offset),
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_ends_where_the_status_does() {
        let extent = |len, data| StorageExtent { len, data };
        let extents = Extents::new(100, vec![extent(10, true), extent(20, false)]);
        assert_eq!(extents.at(99, 5), None);
        assert_eq!(extents.at(100, 50), Some(extent(10, true)));
        assert_eq!(extents.at(109, 50), Some(extent(1, true)));
        assert_eq!(extents.at(110, 5), Some(extent(5, false)));
        assert_eq!(extents.at(129, 5), Some(extent(1, false)));
        assert_eq!(extents.at(130, 5), None);
        assert_eq!(Extents::default().at(0, 5), None);
        let endless = Extents::new(1, vec![extent(u64::MAX, true)]);
        assert_eq!(endless.at(5, u64::MAX), Some(extent(u64::MAX - 5, true)));
    }
}
