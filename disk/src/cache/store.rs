//! What is in the slots: memory, or a file.

use futures_util::future::join_all;

use super::format::data_offset;
use crate::{Buffers, CLASS_BLOCK_BYTES, Error, Storage};

/// The bytes of a block, in memory.
pub(super) const BLOCK: usize = 4096;

/// Where the blocks are.
pub(super) enum Store<S> {
    /// All slots, one after the other. The host gives the memory when it is first used.
    Memory(Buffers),
    File {
        storage: S,
        data_offset: u64,
    },
}

impl<S: Storage> Store<S> {
    /// So many slots in memory.
    pub(super) fn memory(slots: u32) -> Self {
        Self::Memory(Buffers::zeroed(slots as usize * BLOCK))
    }

    /// So many slots in a file that has room for them.
    pub(super) fn file(storage: S, slots: u32) -> Self {
        Self::File {
            storage,
            data_offset: data_offset(slots),
        }
    }

    /// Whether what is read may be other than what was written.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// What is in these slots, one after the other.
    pub(super) async fn read(&self, slots: &[u32]) -> Result<Vec<u8>, Error> {
        let data = Buffers::zeroed(slots.len() * BLOCK);
        match self {
            Self::Memory(memory) => {
                for (n, slot) in slots.iter().enumerate() {
                    part(&data, n, 1).copy_from(&part(memory, *slot as usize, 1).to_vec());
                }
            }
            Self::File {
                storage,
                data_offset,
            } => {
                let reads = runs(slots).map(|(first, count)| {
                    let offset = offset(*data_offset, slots[first]);
                    storage.read_at(offset, part(&data, first, count))
                });
                all_of(join_all(reads).await)?;
            }
        }
        Ok(data.to_vec())
    }

    /// Puts `data`, a block a slot, into these slots.
    pub(super) async fn write(&self, slots: &[u32], data: &Buffers) -> Result<(), Error> {
        match self {
            Self::Memory(memory) => {
                for (n, slot) in slots.iter().enumerate() {
                    part(memory, *slot as usize, 1).copy_from(&part(data, n, 1).to_vec());
                }
                Ok(())
            }
            Self::File {
                storage,
                data_offset,
            } => {
                let writes = runs(slots).map(|(first, count)| {
                    let offset = offset(*data_offset, slots[first]);
                    storage.write_at(offset, part(data, first, count))
                });
                all_of(join_all(writes).await)
            }
        }
    }
}

fn all_of(results: Vec<Result<(), Error>>) -> Result<(), Error> {
    results.into_iter().collect()
}

fn offset(data_offset: u64, slot: u32) -> u64 {
    data_offset + u64::from(slot) * CLASS_BLOCK_BYTES
}

/// Blocks of `data`.
fn part(data: &Buffers, first: usize, count: usize) -> Buffers {
    data.slice(first * BLOCK..(first + count) * BLOCK)
}

/// Slots that follow each other: the index of the first, and how many they are.
fn runs(slots: &[u32]) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = at;
        let rest = slots.get(first..)?;
        let count = rest
            .iter()
            .zip(*rest.first()?..)
            .take_while(|(slot, expected)| *slot == expected)
            .count();
        at += count;
        Some((first, count))
    })
}
