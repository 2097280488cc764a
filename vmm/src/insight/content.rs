//! From what processes write to what reaches the disk.

use disk::{CLASS_BLOCK_BYTES, Class, DedupHint};

use super::call::UserData;
use super::fingerprints::{FileId, Fingerprinter, Fingerprints, Mark};
use super::paging::{Memory, Root};
use super::partial_blocks::{BLOCK_BYTES, Block, PartialBlocks};

/// Contents that are remembered: a gibibyte of blocks that have not reached the disk yet, in 12 MiB.
const FINGERPRINTS: usize = 256 << 10;
/// The most of one call that is looked at; what follows stays without a class.
const CALL_BYTES_MAX: u64 = 16 << 20;
/// The most pieces of one call: the kernel's own bound (`UIO_MAXIOV`).
const PIECES_MAX: u64 = 1024;
const IOVEC_BYTES: usize = 16;

/// What a process writes.
pub(super) struct Written {
    pub(super) file: FileId,
    /// The size of the file before.
    pub(super) size_bytes: u64,
    /// Where in the file it goes.
    pub(super) start: u64,
    pub(super) data: UserData,
    /// The class that the application gives; without, that follows from the size.
    pub(super) class: Option<Class>,
    pub(super) dedup: DedupHint,
}

/// The contents that were written, and are to be met again.
pub(super) struct Contents {
    fingerprinter: Fingerprinter,
    fingerprints: Fingerprints,
    partial: PartialBlocks,
    buffer: Box<Block>,
}

impl Contents {
    pub(super) fn new(fingerprinter: Fingerprinter) -> Self {
        Self {
            fingerprinter,
            fingerprints: Fingerprints::new(FINGERPRINTS),
            partial: PartialBlocks::default(),
            buffer: Box::new([0; BLOCK_BYTES]),
        }
    }

    /// A process writes to a file; returns where that ends.
    pub(super) fn write(&mut self, memory: Memory<'_>, root: Root, written: &Written) -> u64 {
        let pieces = pieces(memory, root, written.data);
        let total = pieces
            .iter()
            .fold(0_u64, |sum, (_, len)| sum.saturating_add(*len));
        let end = written.start.saturating_add(total);
        let by_size = || Class::of_file(written.size_bytes.max(end));
        let mark = Mark {
            file: written.file,
            class: written.class.unwrap_or_else(by_size),
            by_size: written.class.is_none(),
            dedup: written.dedup,
        };
        let mut at = written.start;
        let mut left = CALL_BYTES_MAX;
        for (mut address, len) in pieces {
            let mut len = len.min(left);
            left -= len;
            while len > 0 {
                let within = at % CLASS_BLOCK_BYTES;
                let count = len.min(CLASS_BLOCK_BYTES - within);
                if !self.piece(memory, root, mark, at, address, count) {
                    return end;
                }
                at += count;
                address = address.saturating_add(count);
                len -= count;
            }
        }
        end
    }

    /// Takes `count` bytes that go to `at`, all in one block. Whether they were there.
    fn piece(
        &mut self,
        memory: Memory<'_>,
        root: Root,
        mark: Mark,
        at: u64,
        address: u64,
        count: u64,
    ) -> bool {
        let Ok(len) = usize::try_from(count) else {
            return false;
        };
        let bytes = &mut self.buffer[..len];
        if memory.read_user(root, address, bytes) < len {
            return false;
        }
        if count == CLASS_BLOCK_BYTES {
            if let Some(hash) = self.fingerprinter.of(&self.buffer) {
                self.fingerprints.insert(hash, mark);
            }
            return true;
        }
        let block = at / CLASS_BLOCK_BYTES;
        let within = usize::try_from(at % CLASS_BLOCK_BYTES).unwrap_or_default();
        let Some(grown) = self.partial.write(mark.file, block, within, bytes) else {
            return true;
        };
        if let Some(outdated) = grown.outdated {
            self.fingerprints.remove(outdated);
        }
        let hash = self.fingerprinter.of(grown.content);
        if let Some(hash) = hash {
            self.fingerprints.insert(hash, mark);
        }
        self.partial.known_as(mark.file, block, hash);
        true
    }

    /// A block that comes from the disk is about to be written to another place, and not by a
    /// process.
    pub(super) fn expect(&mut self, hash: u64, mark: Mark) {
        self.fingerprints.insert(hash, mark);
    }

    /// What the block with this fingerprint is, that reaches the disk.
    pub(super) fn find(&mut self, hash: u64) -> Option<Mark> {
        self.fingerprints.find(hash)
    }
}

/// Where the bytes of a call are, and how many there.
pub(super) fn pieces(memory: Memory<'_>, root: Root, data: UserData) -> Vec<(u64, u64)> {
    match data {
        UserData::One { address, len } => vec![(address, len)],
        UserData::Vector { address, count } => {
            let count = usize::try_from(count.min(PIECES_MAX)).unwrap_or_default();
            let mut bytes = vec![0; count * IOVEC_BYTES];
            let len = memory.read_user(root, address, &mut bytes);
            let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            bytes[..len]
                .chunks_exact(IOVEC_BYTES)
                .map(|iovec| (word(&iovec[..8]), word(&iovec[8..])))
                .collect()
        }
    }
}
