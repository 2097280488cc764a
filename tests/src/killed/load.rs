//! Writers at work until the program that has the disk is killed.

use std::io;
use std::thread;

use super::fuse::Fuse;
use super::ledger::{BLOCK_BYTES, Ledger};
use crate::records::Numbers;

/// The most blocks that a writer changes at the same time.
const CHANGES_MAX: u64 = 8;

/// A way to change a disk, and to have it promise that.
pub trait Medium: Send {
    /// Makes changes at the same time, and waits until all are answered: if they are to be
    /// durable, with a promise.
    fn change(&mut self, changes: &[Change], durable: bool) -> io::Result<()>;

    /// Whether it flushes at all. If not, only durable changes promise anything, and no flush of
    /// another writer's makes up for what they leave out.
    fn flushes(&self) -> bool {
        true
    }

    /// Has everything promised that was answered, whoever sent it.
    fn flush(&mut self) -> io::Result<()>;
}

/// A change of one block.
#[derive(Debug)]
pub struct Change {
    /// Where the block begins.
    pub offset: u64,
    /// What it will hold; zeros if there is nothing.
    pub data: Option<Vec<u8>>,
}

/// What is done to a disk until it ends.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Decides what the writers do.
    pub seed: u64,
    /// After so many promises,
    pub promises: u64,
    /// and so many answers, the program is killed.
    pub answers: u64,
}

/// One of the writers. The blocks of all lie beside each other.
struct Writer<'a> {
    ledger: &'a Ledger,
    numbers: Numbers,
    first: usize,
    stride: usize,
}

impl Load {
    /// Has a writer work through each of `media`; `kill` ends the program, and with it them.
    ///
    /// # Panics
    /// When a change or a flush fails before that.
    pub fn run(self, ledger: &Ledger, media: &mut [impl Medium], kill: &(dyn Fn() + Sync)) {
        let fuse = Fuse::new(self.promises, self.answers, kill);
        let stride = media.len();
        thread::scope(|scope| {
            for (first, medium) in media.iter_mut().enumerate() {
                let mut writer = Writer {
                    ledger,
                    // Far apart: the seeds of the next loads are near.
                    numbers: Numbers::new(self.seed ^ (first as u64) << 32),
                    first,
                    stride,
                };
                let fuse = &fuse;
                scope.spawn(move || {
                    let error = writer.run(medium, fuse);
                    assert!(fuse.is_burnt(), "the disk fails: {error}");
                });
            }
        });
    }
}

impl Writer<'_> {
    /// Works until that fails; returns how.
    fn run(&mut self, medium: &mut impl Medium, fuse: &Fuse<'_>) -> io::Error {
        loop {
            let blocks = self.draw();
            let durable = self.numbers.below(8) == 0;
            if let Err(error) = medium.change(&self.send(&blocks), durable) {
                return error;
            }
            for block in blocks {
                self.ledger.answer(block, durable);
            }
            fuse.answered();
            if durable {
                fuse.promised();
            } else if medium.flushes() && self.numbers.below(3) == 0 {
                let answered = self.ledger.answered();
                if let Err(error) = medium.flush() {
                    return error;
                }
                self.ledger.promise(&answered);
                fuse.promised();
            }
        }
    }

    /// Some blocks of its own, each once.
    fn draw(&mut self) -> Vec<usize> {
        let own = (self.ledger.blocks() - self.first).div_ceil(self.stride);
        let count = 1 + self.numbers.below(CHANGES_MAX);
        let draw = |_| self.first + self.numbers.size(0, own) * self.stride;
        let mut blocks: Vec<_> = (0..count).map(draw).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    fn send(&mut self, blocks: &[usize]) -> Vec<Change> {
        let change = |&block: &usize| Change {
            offset: (block * BLOCK_BYTES) as u64,
            data: self.ledger.send(block, self.numbers.below(6) == 0),
        };
        blocks.iter().map(change).collect()
    }
}
