//! What is in the files, and how whoever meets a block of one tells what it is.
//!
//! ```text
//!  a block   0    7      8     12     16    24                4096
//!            | magic | class | file | block | seed | random bytes ... |
//! ```
//!
//! Numbers are little-endian. The random bytes follow from all that stands before them, so that a
//! block tells by itself whether it is whole, and no two are the same.

use insight_hints::Class;

use crate::records::Numbers;

/// The piece that has a mark: the block of the file systems under test, and the page of their cache.
pub const BLOCK_BYTES: usize = 4096;

/// Seven bytes that nothing else begins with. The class follows.
const MAGIC: [u8; 7] = *b"\x93truth\n";
/// The length of the mark. The seed follows.
const MARK_BYTES: usize = 16;
const HEAD_BYTES: usize = 24;
/// The number of the file in blocks that are the same in all files.
const ANY_FILE: u32 = u32::MAX;

/// What a block says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    /// The number of its file; nothing where all files have this block.
    pub file: Option<u32>,
    /// Its number in the file.
    pub block: u32,
    /// The class of the file by its size, or what a hint said.
    pub class: Class,
}

/// What a block says that it is; nothing where it is no block of these files, or zeros.
pub fn truth(block: &[u8]) -> Option<Truth> {
    let mark = block.first_chunk::<MARK_BYTES>()?;
    let (magic, rest) = mark.split_first_chunk()?;
    let (class, rest) = rest.split_first()?;
    let (file, number) = rest.split_first_chunk()?;
    let file = u32::from_le_bytes(*file);
    (*magic == MAGIC).then_some(Truth {
        file: (file != ANY_FILE).then_some(file),
        block: u32::from_le_bytes(*number.first_chunk()?),
        class: Class::try_from(u64::from(*class)).ok()?,
    })
}

/// Whether a block, or the beginning of one, is what its mark and its seed say, to the last byte.
pub fn is_whole(block: &[u8]) -> bool {
    let seed = block.get(MARK_BYTES..HEAD_BYTES);
    let seed = seed.and_then(|seed| seed.first_chunk());
    let (Some(truth), Some(seed)) = (truth(block), seed) else {
        return false;
    };
    self::block(u64::from_le_bytes(*seed), truth).starts_with(block)
}

/// The block that says this.
pub fn block(seed: u64, truth: Truth) -> [u8; BLOCK_BYTES] {
    let file = truth.file.unwrap_or(ANY_FILE);
    let mut block = [0; BLOCK_BYTES];
    let (mark, rest) = block.split_at_mut(MARK_BYTES);
    mark[..7].copy_from_slice(&MAGIC);
    mark[7] = truth.class as u8;
    mark[8..12].copy_from_slice(&file.to_le_bytes());
    mark[12..].copy_from_slice(&truth.block.to_le_bytes());
    let parts = [file, truth.block, u32::from(truth.class as u8)];
    let start = parts.into_iter().fold(seed, |mixed, part| {
        Numbers::new(mixed ^ u64::from(part)).draw()
    });
    let mut numbers = Numbers::new(start);
    let (head, rest) = rest.split_at_mut(HEAD_BYTES - MARK_BYTES);
    head.copy_from_slice(&seed.to_le_bytes());
    for word in rest.chunks_exact_mut(8) {
        word.copy_from_slice(&numbers.draw().to_le_bytes());
    }
    block
}

/// What the blocks of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Each is another, and says which.
    Unique,
    /// All are the same, in all files.
    Duplicate,
    /// They are zeros.
    Zeros,
}

/// The bytes of a file, in any order.
#[derive(Clone, Debug)]
pub struct Content {
    kind: Kind,
    seed: u64,
    file: u32,
    class: Class,
    /// The block that was asked for last.
    cached: Option<(u32, [u8; BLOCK_BYTES])>,
}

impl Content {
    /// Of file number `file`, which has `bytes`.
    pub fn new(kind: Kind, seed: u64, file: u32, bytes: u64) -> Self {
        Self::of_class(kind, seed, file, Class::of_file(bytes))
    }

    /// The same, with another class.
    pub fn of_class(kind: Kind, seed: u64, file: u32, class: Class) -> Self {
        Self {
            kind,
            seed,
            file,
            class,
            cached: None,
        }
    }

    /// What is at `offset`, as much as `bytes` takes.
    pub fn read(&mut self, offset: u64, bytes: &mut [u8]) {
        let (mut offset, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let block = self.block(offset / BLOCK_BYTES as u64);
            let start = usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or(0);
            let count = rest.len().min(BLOCK_BYTES - start);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&block[start..start + count]);
            (offset, rest) = (offset + count as u64, later);
        }
    }

    fn block(&mut self, number: u64) -> &[u8; BLOCK_BYTES] {
        // Files of more than 16 TiB begin again.
        let number = u32::try_from(number % (1 << 32)).unwrap_or(0);
        let block = match self.cached.take() {
            Some((cached, block)) if cached == number => block,
            _ => self.make(number),
        };
        &self.cached.insert((number, block)).1
    }

    fn make(&self, number: u32) -> [u8; BLOCK_BYTES] {
        let truth = match self.kind {
            Kind::Zeros => return [0; BLOCK_BYTES],
            Kind::Unique => Truth {
                file: Some(self.file),
                block: number,
                class: self.class,
            },
            Kind::Duplicate => Truth {
                file: None,
                block: 0,
                class: Class::Other,
            },
        };
        block(self.seed, truth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 3 << 20;

    fn read(kind: Kind, file: u32, offset: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; count];
        Content::new(kind, 7, file, BYTES).read(offset, &mut bytes);
        bytes
    }

    #[test]
    fn a_block_says_what_it_is() {
        let bytes = read(Kind::Unique, 3, 2 * 4096, 2 * 4096);
        let truths: Vec<_> = bytes.chunks(BLOCK_BYTES).map(truth).collect();
        let expected = |block| Truth {
            file: Some(3),
            block,
            class: Class::Below5Mib,
        };
        assert_eq!(truths, [Some(expected(2)), Some(expected(3))]);
        assert!(bytes.chunks(BLOCK_BYTES).all(is_whole));
        assert!(is_whole(&bytes[..1024]), "the end of a file");
        assert_eq!(truth(&bytes[1..]), None);
        assert_eq!(truth(&bytes[..MARK_BYTES - 1]), None);
    }

    #[test]
    fn a_changed_byte_is_noticed_wherever_it_is() {
        let good = read(Kind::Unique, 3, 0, BLOCK_BYTES);
        for at in 0..BLOCK_BYTES {
            let mut block = good.clone();
            block[at] ^= 1;
            assert!(!is_whole(&block), "byte {at}");
        }
    }

    #[test]
    fn blocks_of_files_and_seeds_differ() {
        let block = |seed, file, block| {
            let class = Class::Other;
            super::block(seed, Truth { file, block, class })[HEAD_BYTES..].to_owned()
        };
        let blocks = [
            block(1, Some(0), 1),
            block(1, Some(1), 0),
            block(1, Some(1), 1),
            block(2, Some(1), 1),
            block(1, None, 0),
        ];
        for (at, one) in blocks.iter().enumerate() {
            assert!(!blocks[..at].contains(one), "block {at}");
        }
    }

    #[test]
    fn pieces_are_those_of_the_whole() {
        let whole = read(Kind::Unique, 1, 0, 20_000);
        for (offset, count) in [(0, 100), (4090, 10), (4096, 4096), (5000, 15_000)] {
            let start = usize::try_from(offset).unwrap();
            assert_eq!(
                read(Kind::Unique, 1, offset, count),
                whole[start..start + count]
            );
        }
    }

    #[test]
    fn duplicates_are_the_same_everywhere_and_zeros_have_no_mark() {
        let block = read(Kind::Duplicate, 1, 0, BLOCK_BYTES);
        assert_eq!(read(Kind::Duplicate, 2, 40_960, BLOCK_BYTES), block);
        assert_eq!(truth(&block).unwrap().file, None);
        assert!(is_whole(&block));
        let zeros = read(Kind::Zeros, 1, 0, BLOCK_BYTES);
        assert_eq!(zeros, [0; BLOCK_BYTES]);
        assert_eq!(truth(&zeros), None);
    }
}
