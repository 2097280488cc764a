//! A number for each cluster, kept compactly: most clusters have none, one or few references.

use std::collections::BTreeMap;

use super::file;
use super::format::Layout;
use crate::{Error, Storage};

/// Clusters in a chunk: what lies far apart must not cost much.
const CHUNK: usize = 64;
/// The number is elsewhere.
const LARGE: u16 = u16::MAX;

/// References of clusters, 0 unless set. Takes about 2 bytes a cluster that has any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    chunks: BTreeMap<u64, Box<[u16; CHUNK]>>,
    large: BTreeMap<u64, u64>,
}

impl Counts {
    pub(crate) fn get(&self, cluster: u64) -> u64 {
        let (key, index) = place(cluster);
        match self.chunks.get(&key).map_or(0, |chunk| chunk[index]) {
            LARGE => self.large.get(&cluster).copied().unwrap_or_default(),
            small => small.into(),
        }
    }

    pub(crate) fn set(&mut self, cluster: u64, count: u64) {
        let (key, index) = place(cluster);
        let small = u16::try_from(count).unwrap_or(LARGE);
        if small == LARGE {
            self.large.insert(cluster, count);
        }
        if small != 0 || self.chunks.contains_key(&key) {
            self.chunks
                .entry(key)
                .or_insert_with(|| Box::new([0; CHUNK]))[index] = small;
        }
    }

    pub(crate) fn add(&mut self, cluster: u64, count: u64) {
        let (key, index) = place(cluster);
        if let Some(chunk) = self.chunks.get_mut(&key)
            && let Ok(sum) = u16::try_from(u64::from(chunk[index]).saturating_add(count))
            && sum < LARGE
        {
            chunk[index] = sum;
        } else {
            self.set(cluster, self.get(cluster).saturating_add(count));
        }
    }

    /// Takes in the refcounts of the block at offset `block`, which has `index` in the refcount
    /// table.
    pub(crate) async fn load_block(
        &mut self,
        storage: &impl Storage,
        layout: Layout,
        index: u64,
        block: u64,
    ) -> Result<(), Error> {
        let width = layout.refcount_width;
        let first = index * layout.refcount_block_entries();
        file::for_each_piece(storage, block, layout.cluster_bytes(), |at, piece| {
            let first = first + at * 8 / width.bits();
            let per_word = 64 / width.bits();
            // Most are zero where refcounts are narrow: those go by the word.
            for (word, n) in piece
                .chunks_exact(8)
                .zip(0..)
                .filter(|(word, _)| *word != [0; 8])
            {
                for entry in 0..per_word {
                    let count = width.get(word, file::len(entry));
                    if count != 0 {
                        self.set(first + n * per_word + entry, count);
                    }
                }
            }
        })
        .await
    }

    /// The refcount block with `index` in the refcount table.
    pub(crate) fn block(&self, layout: Layout, index: u64) -> Vec<u8> {
        let mut block = vec![0; file::len(layout.cluster_bytes())];
        let entries = layout.refcount_block_entries();
        let first = index * entries;
        let chunks = first / CHUNK as u64..=(first + entries - 1) / CHUNK as u64;
        let chunks = self.chunks.range(chunks);
        for (cluster, count) in chunks.flat_map(|(key, chunk)| self.of_chunk(*key, chunk)) {
            if (first..first + entries).contains(&cluster) {
                let count = count.min(layout.refcount_width.max());
                layout
                    .refcount_width
                    .set(&mut block, file::len(cluster - first), count);
            }
        }
        block
    }

    /// Clusters with a number that is not 0, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let chunks = self.chunks.iter();
        chunks.flat_map(|(key, chunk)| self.of_chunk(*key, chunk))
    }

    fn of_chunk<'a>(
        &'a self,
        key: u64,
        chunk: &'a [u16; CHUNK],
    ) -> impl Iterator<Item = (u64, u64)> + 'a {
        let used = (key * CHUNK as u64..).zip(chunk.iter());
        used.filter(|(_, count)| **count != 0)
            .map(|(cluster, _)| (cluster, self.get(cluster)))
    }

    /// The last cluster with a number that is not 0.
    pub(crate) fn last(&self) -> Option<u64> {
        self.chunks.iter().rev().find_map(|(key, chunk)| {
            let index = chunk.iter().rposition(|count| *count != 0)?;
            Some(key * CHUNK as u64 + index as u64)
        })
    }
}

fn place(cluster: u64) -> (u64, usize) {
    let index = usize::try_from(cluster % CHUNK as u64).expect("below CHUNK");
    (cluster / CHUNK as u64, index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_small_and_large_numbers_far_apart() {
        let mut counts = Counts::default();
        let numbers = [
            (0, 1),
            (63, 65534),
            (64, 65535),
            (65, u64::MAX),
            (1 << 55, 2),
        ];
        for (cluster, count) in numbers {
            counts.set(cluster, count);
        }
        assert_eq!(counts.iter().collect::<Vec<_>>(), numbers);
        assert_eq!(counts.last(), Some(1 << 55));
        assert_eq!(counts.get(1), 0);
        counts.add(64, 1);
        assert_eq!(counts.get(64), 65536);
        counts.add(65, 1);
        assert_eq!(counts.get(65), u64::MAX);
        counts.set(64, 3);
        assert_eq!(counts.get(64), 3);
        counts.set(1 << 55, 0);
        assert_eq!(counts.last(), Some(65));
    }

    #[test]
    fn nothing_costs_nothing() {
        let mut counts = Counts::default();
        counts.set(1 << 40, 0);
        assert!(counts.chunks.is_empty());
        assert_eq!(counts.last(), None);
    }
}
