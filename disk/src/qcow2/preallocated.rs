//! What a file holds behind its last cluster in use: space that it has grown ahead of need.

use super::file;
use super::format::Header;
use crate::{Error, Storage};

/// Refcount table entries have their offset in bits 9 to 63.
const RESERVED: u64 = 0x1FF;

/// How many bytes the file has behind the last cluster that is in use, or in the journal of one
/// that was not closed, as far as refcounts say. Usually that takes reading one refcount block.
pub async fn preallocated_bytes(storage: &impl Storage, header: &Header) -> Result<u64, Error> {
    let layout = header.layout;
    let clusters = last_in_use(storage, header)
        .await?
        .map_or(0, |last| last + 1);
    let journal = header
        .journal
        .as_ref()
        .map_or(0, |journal| journal.region.end);
    let end = clusters.saturating_mul(layout.cluster_bytes()).max(journal);
    Ok(storage.size_bytes().saturating_sub(end))
}

/// The last cluster with a refcount. Blocks past the end of the file have none: what is wrong with
/// them is for a check to say.
async fn last_in_use(storage: &impl Storage, header: &Header) -> Result<Option<u64>, Error> {
    let layout = header.layout;
    let (table, words) = (
        header.refcount_table_offset,
        header.refcount_table_bytes() / 8,
    );
    let mut blocks = Vec::new();
    file::for_each_word(storage, table, words, |index, entry| {
        blocks.push((index, entry & !RESERVED));
    })
    .await?;
    let entries = layout.refcount_block_entries();
    for (index, offset) in blocks.into_iter().rev() {
        let block = file::read(storage, offset, file::len(layout.cluster_bytes())).await?;
        let in_use = |entry: &u64| layout.refcount_width.get(&block, file::len(*entry)) != 0;
        if let Some(entry) = (0..entries).rev().find(in_use) {
            return Ok(Some(index.saturating_mul(entries).saturating_add(entry)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::CreateOptions;
    use crate::qcow2::samples::{SEED, executor, fill, image, kinds};
    use crate::{Backend, Buffers, Executor, SimulatedStorage};

    async fn preallocated(storage: &SimulatedStorage) -> u64 {
        let header = file::read_header(storage).await.unwrap();
        preallocated_bytes(storage, &header).await.unwrap()
    }

    #[test]
    fn is_what_lies_behind_the_last_cluster_in_use() {
        for options in kinds() {
            executor().run(async {
                let storage = image(&options).await;
                fill(&storage, &[(3, 500, 1)]).await;
                assert_eq!(preallocated(&storage).await, 0, "{options:?}");
                // The last cluster in use may be cut short.
                let end = storage
                    .size_bytes()
                    .next_multiple_of(1 << options.cluster_bits);
                storage.set_len(end + 12345).await.unwrap();
                assert_eq!(preallocated(&storage).await, 12345, "{options:?}");
            });
        }
    }

    /// The last block of the table has nothing in use, and one before it cannot be where it is.
    #[test]
    fn empty_and_misplaced_blocks_are_passed_over() {
        let executor = Executor::with_backend(Backend::Simulated { seed: SEED }).unwrap();
        executor.run(async {
            let storage = image(&CreateOptions::new(1 << 20)).await;
            fill(&storage, &[(0, 8, 1)]).await;
            let header = file::read_header(&storage).await.unwrap();
            let end = storage.size_bytes().next_multiple_of(65536);
            storage.set_len(end + 65536).await.unwrap();
            for (index, block) in [(1_u64, 1_u64 << 50), (2, end)] {
                let at = header.refcount_table_offset + index * 8;
                let word = Buffers::from_vec(block.to_be_bytes());
                storage.write_at(at, word).await.unwrap();
            }
            assert_eq!(preallocated(&storage).await, 65536);
        });
    }
}
