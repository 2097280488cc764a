//! Blocks of files that are written in pieces.

use std::collections::{HashMap, VecDeque};

use disk::CLASS_BLOCK_BYTES;

use super::fingerprints::FileId;

/// At most so many at a time; each takes a block of memory.
const BLOCKS_MAX: usize = 4096;

/// What is told apart, in bytes.
pub(super) const BLOCK_BYTES: usize = 4096;
const _: () = assert!(BLOCK_BYTES as u64 == CLASS_BLOCK_BYTES);

pub(super) type Block = [u8; BLOCK_BYTES];

type Place = (FileId, u64);

struct Partial {
    content: Box<Block>,
    /// What is known of it, from the start on.
    len: usize,
    /// The fingerprint under which it is known as it is.
    hash: Option<u64>,
}

/// The blocks that are known from their start on, but not yet to their end. Behind a file's end the
/// kernel has zeros.
#[derive(Default)]
pub(super) struct PartialBlocks {
    blocks: HashMap<Place, Partial>,
    /// In the order in which they came; some are complete by now.
    order: VecDeque<Place>,
}

/// A block as it is after a piece was written.
pub(super) struct Grown<'a> {
    pub(super) content: &'a Block,
    /// The fingerprint that it was known by before.
    pub(super) outdated: Option<u64>,
}

impl PartialBlocks {
    /// Notes that `bytes` are written at `at` within block number `block` of a file. What the block
    /// is then, unless its start is not known.
    pub(super) fn write(
        &mut self,
        file: FileId,
        block: u64,
        at: usize,
        bytes: &[u8],
    ) -> Option<Grown<'_>> {
        let place = (file, block);
        if at == 0 && !self.blocks.contains_key(&place) {
            self.make_room();
            self.order.push_back(place);
            self.blocks.insert(
                place,
                Partial {
                    content: Box::new([0; BLOCK_BYTES]),
                    len: 0,
                    hash: None,
                },
            );
        }
        let end = at.checked_add(bytes.len())?;
        if at > self.blocks.get(&place)?.len {
            // A gap, of which nothing is known.
            self.blocks.remove(&place);
            return None;
        }
        let partial = self.blocks.get_mut(&place)?;
        partial.content.get_mut(at..end)?.copy_from_slice(bytes);
        partial.len = partial.len.max(end);
        Some(Grown {
            outdated: partial.hash.take(),
            content: &partial.content,
        })
    }

    /// Notes the fingerprint that the block has now; one that is whole is of no more interest.
    pub(super) fn known_as(&mut self, file: FileId, block: u64, hash: Option<u64>) {
        let place = (file, block);
        let Some(partial) = self.blocks.get_mut(&place) else {
            return;
        };
        partial.hash = hash;
        if partial.len == BLOCK_BYTES {
            self.blocks.remove(&place);
        }
    }

    fn make_room(&mut self) {
        while self.order.len() >= BLOCKS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.blocks.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId {
        device: 1,
        inode: 2,
    };

    #[test]
    fn pieces_come_together() {
        let mut blocks = PartialBlocks::default();
        let grown = blocks.write(FILE, 5, 0, &[1; 100]).unwrap();
        assert_eq!((grown.content[99], grown.content[100]), (1, 0));
        assert_eq!(grown.outdated, None);
        blocks.known_as(FILE, 5, Some(77));
        let grown = blocks.write(FILE, 5, 100, &[2; 3996]).unwrap();
        assert_eq!((grown.content[99], grown.content[100]), (1, 2));
        assert_eq!(grown.outdated, Some(77));
        blocks.known_as(FILE, 5, Some(78));
        assert!(blocks.blocks.is_empty());
    }

    #[test]
    fn what_is_behind_a_gap_is_not_guessed() {
        let mut blocks = PartialBlocks::default();
        assert!(blocks.write(FILE, 5, 10, &[1; 100]).is_none());
        assert!(blocks.write(FILE, 5, 0, &[1; 10]).is_some());
        assert!(blocks.write(FILE, 5, 11, &[1; 10]).is_none());
        assert!(blocks.write(FILE, 5, 10, &[1; 10]).is_none());
        assert!(blocks.write(FILE, 6, 0, &[1; 4097]).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut blocks = PartialBlocks::default();
        for block in 0..3 * BLOCKS_MAX as u64 {
            blocks.write(FILE, block, 0, &[1]);
        }
        assert_eq!(blocks.blocks.len(), BLOCKS_MAX);
    }
}
