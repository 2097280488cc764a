//! What the blocks of a disk may hold, by what was sent and what was promised.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is changed at once. A block never tears: it is one page of the host's.
pub const BLOCK_BYTES: usize = 4096;

/// What a block holds: zeros, or the stamp of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Zeros,
    Stamp(u32),
}

/// What was done to the blocks of a disk. Each block has one writer, who waits for its answers.
#[derive(Debug)]
pub struct Ledger(Mutex<Vec<Block>>);

#[derive(Debug)]
struct Block {
    /// All that it held or was to hold, in that order.
    sent: Vec<Content>,
    /// The last of these that was answered,
    answered: usize,
    /// and the last that was promised.
    promised: usize,
}

/// What was answered at a moment: the places in each block's history.
#[derive(Debug)]
pub struct Answered(Vec<usize>);

/// How much of what was found was needed.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Blocks that hold what was promised,
    pub promised: usize,
    /// and those that hold something newer.
    pub newer: usize,
}

impl Ledger {
    /// A disk of so many blocks, which begin with stamps, or else with zeros.
    pub fn new(blocks: usize, has_stamps: bool) -> Self {
        let first = if has_stamps {
            Content::Stamp(0)
        } else {
            Content::Zeros
        };
        let block = || Block {
            sent: vec![first],
            answered: 0,
            promised: 0,
        };
        Self(Mutex::new((0..blocks).map(|_| block()).collect()))
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.lock().len()
    }

    /// Notes a change that is about to be sent. Returns the data; zeros need none.
    pub fn send(&self, block: usize, is_zeros: bool) -> Option<Vec<u8>> {
        let sent = &mut self.lock()[block].sent;
        let number = u32::try_from(sent.len()).unwrap_or(u32::MAX);
        sent.push(if is_zeros {
            Content::Zeros
        } else {
            Content::Stamp(number)
        });
        (!is_zeros).then(|| content(block, number))
    }

    /// Notes that what was sent last to this block was answered, maybe with a promise.
    pub fn answer(&self, block: usize, is_promise: bool) {
        let block = &mut self.lock()[block];
        block.answered = block.sent.len() - 1;
        if is_promise {
            block.promised = block.answered;
        }
    }

    /// What a flush promises that is sent now.
    pub fn answered(&self) -> Answered {
        Answered(self.lock().iter().map(|block| block.answered).collect())
    }

    /// Notes that such a flush was answered.
    pub fn promise(&self, answered: &Answered) {
        for (block, &place) in self.lock().iter_mut().zip(&answered.0) {
            block.promised = block.promised.max(place);
        }
    }

    /// Compares with what the disk holds, all of which is a promise from now on. The error says
    /// what is wrong with which block.
    pub fn verify(&self, disk: &[u8]) -> Result<Verdict, String> {
        let mut verdict = Verdict::default();
        let mut blocks = self.lock();
        if disk.len() != blocks.len() * BLOCK_BYTES {
            return Err(format!("the disk has {} bytes", disk.len()));
        }
        for (number, (block, bytes)) in blocks.iter_mut().zip(disk.chunks(BLOCK_BYTES)).enumerate()
        {
            let is_there = |sent: &Content| sent.bytes(number) == bytes;
            let place = block.sent[block.promised..].iter().position(is_there);
            let Some(place) = place else {
                return Err(block.complaint(number, bytes));
            };
            match place {
                0 => verdict.promised += 1,
                _ => verdict.newer += 1,
            }
            let found = block.sent[block.promised + place];
            block.promised = block.sent.len();
            block.answered = block.promised;
            block.sent.push(found);
        }
        Ok(verdict)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Block>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Block {
    fn complaint(&self, number: usize, bytes: &[u8]) -> String {
        let place = |found: &Content| found.bytes(number) == bytes;
        let old = self.sent[..self.promised].iter().rposition(place);
        let found = match old {
            Some(old) => format!("{:?}, the change number {old}", self.sent[old]),
            None => described(bytes),
        };
        let (promised, may_be) = (self.promised, &self.sent[self.promised..]);
        format!("block {number} holds {found}; promised is number {promised} of {may_be:?}")
    }
}

/// What a block holds that it should never have held.
fn described(bytes: &[u8]) -> String {
    let words: Vec<_> = bytes.chunks(8).map(stamp).collect();
    match &words[..] {
        [first, .., last] if first != last => format!("a mixture, from {first} to {last}"),
        [first, ..] => first.clone(),
        [] => "nothing".to_owned(),
    }
}

/// The inverse of [`content`], for a word of it.
fn stamp(word: &[u8]) -> String {
    match word.try_into().map_or(0, u64::from_le_bytes) {
        0 => "zeros".to_owned(),
        word => {
            let block = (word & 0xffff_ffff).wrapping_sub(1);
            format!("stamp {} of block {block}", word >> 32)
        }
    }
}

impl Content {
    fn bytes(self, block: usize) -> Vec<u8> {
        match self {
            Self::Zeros => vec![0; BLOCK_BYTES],
            Self::Stamp(number) => content(block, number),
        }
    }
}

/// What a block holds with the stamp of this number. No other block and no other number has the
/// like, nor is it zeros.
pub fn content(block: usize, number: u32) -> Vec<u8> {
    // Block numbers begin with 1, so that the first stamp of the first block is none.
    let word = u64::from(number) << 32 | (block as u64 + 1);
    word.to_le_bytes().repeat(BLOCK_BYTES / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_promised_or_newer_and_stays() {
        let ledger = Ledger::new(1, false);
        assert!(ledger.verify(&[0; BLOCK_BYTES]).is_ok());
        let first = ledger.send(0, false).unwrap();
        ledger.answer(0, false);
        let answered = ledger.answered();
        let second = ledger.send(0, false).unwrap();
        ledger.answer(0, false);
        ledger.promise(&answered);
        let old = ledger.verify(&[0; BLOCK_BYTES]);
        assert!(
            old.unwrap_err()
                .contains("holds Zeros, the change number 1")
        );
        let torn = [&first[..2048], &second[2048..]].concat();
        let torn = ledger.verify(&torn).unwrap_err();
        assert!(torn.contains("a mixture, from stamp 2 of block 0 to stamp 3 of block 0"));
        let foreign = ledger.verify(&content(1, 1)).unwrap_err();
        assert!(foreign.contains("stamp 1 of block 1;"), "{foreign}");
        assert!(
            ledger
                .verify(&second)
                .is_ok_and(|verdict| verdict.newer == 1)
        );
        // What was found once does not go away.
        assert!(ledger.verify(&first).is_err());
        assert!(
            ledger
                .verify(&second)
                .is_ok_and(|verdict| verdict.promised == 1)
        );
    }

    #[test]
    fn a_durable_write_is_a_promise() {
        let ledger = Ledger::new(2, true);
        let stamp = ledger.send(1, false).unwrap();
        ledger.answer(1, true);
        let before = [content(0, 0), content(1, 0)].concat();
        assert!(ledger.verify(&before).is_err());
        assert!(ledger.verify(&[content(0, 0), stamp].concat()).is_ok());
    }
}
