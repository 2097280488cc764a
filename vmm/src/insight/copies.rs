//! Which files a process is copying.
//!
//! A process that writes to one file what is where it has read from another may be copying it, and may
//! as well have changed it in its place: to encrypt it, for example. The stub is passed on the way into
//! the kernel only, so nobody sees the memory between the two. So the kernel is asked what the source
//! has there, for a few blocks; what is the same is copied. (Sky, which compares checksums of what is
//! read and written, sees the memory when the read returns.)
//!
//! ```text
//!   read(3, buffer)    where that is, is remembered
//!   write(4, buffer)   is it as it was read? ── pread(3, somewhere else) ──> the same: a copy
//! ```
//! What the kernel copies by itself needs no such proof.

use std::collections::VecDeque;

use disk::mutant;

use super::call::UserData;
use super::content::pieces;
use super::fingerprints::FileId;
use super::paging::{Memory, Root};
use super::partial_blocks::BLOCK_BYTES;
use super::question::{CONTENT_BYTES, Question};

/// After so many blocks that were the same, one after the other, a copy is in progress.
const MATCHES_MIN: u32 = 4;
/// After so many that were not, it is none, until one of the two is closed.
const MISMATCHES_MAX: u32 = 2;
/// While a copy is in progress, one of so many writes is looked at again.
const TRUSTED_WRITES: u32 = 64;
/// It ends with so many writes to its target that hand over something else.
const STRAYS_MAX: u32 = 8;
/// Reads that are remembered.
const READS_MAX: usize = 8;
/// Pairs of files that are remembered.
const PAIRS_MAX: usize = 8;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// Memory that a read fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Delivery {
    fd: i32,
    file: FileId,
    address: u64,
    len: u64,
    /// Where in the file it is from; without, up to where the descriptor stands.
    at: Option<u64>,
}

/// A write that hands over what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handed {
    from: Delivery,
    to: FileId,
    /// Its first piece of memory.
    address: u64,
    len: u64,
    /// All of it, in bytes.
    total: u64,
}

impl Handed {
    /// Where in its source it is from, whose descriptor stands at `stands` now.
    fn start(&self, stands: u64) -> Option<u64> {
        match self.from.at {
            Some(at) => at.checked_add(self.address - self.from.address),
            // A copy writes all that a read brought, before the next.
            None => stands.checked_sub(self.total),
        }
    }
}

/// A file of which blocks went to another.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    from: FileId,
    to: FileId,
    /// Blocks that were the same, since one was not.
    matches: u32,
    /// Blocks that were not the same, since one was.
    mismatches: u32,
    /// How many blocks of this write were asked for.
    asked: u32,
    /// Writes since any was looked at.
    trusted: u32,
    /// Writes that handed over something else, since one did not.
    strays: u32,
}

impl Pair {
    fn is_copy(&self) -> bool {
        self.matches >= MATCHES_MIN
    }

    /// How many blocks are to be asked for, of a write of so many.
    fn samples(&self, blocks: u64) -> u32 {
        let needed = match (self.mismatches, self.is_copy(), self.trusted) {
            (MISMATCHES_MAX.., ..) | (_, true, ..TRUSTED_WRITES) => 0,
            (_, true, _) => 1,
            (_, false, _) => MATCHES_MIN,
        };
        u32::try_from(blocks).map_or(needed, |blocks| needed.min(blocks))
    }
}

/// What a process reads and writes, as far as it may be a copy.
#[derive(Debug, Default)]
pub(super) struct Copies {
    reads: VecDeque<Delivery>,
    pairs: VecDeque<Pair>,
    /// The write that is looked at.
    handed: Option<Handed>,
    /// A pipe, and the file that went into it last.
    piped: Option<(FileId, FileId)>,
}

impl Copies {
    /// Another call is looked at.
    pub(super) fn look_away(&mut self) {
        self.handed = None;
    }

    /// A process reads `data` of a file, which is not in its memory yet.
    pub(super) fn reads(
        &mut self,
        memory: Memory<'_>,
        root: Root,
        (fd, file): (i32, FileId),
        data: UserData,
        at: Option<u64>,
    ) {
        let Some(&(address, len)) = pieces(memory, root, data).first() else {
            return;
        };
        self.reads.retain(|read| read.address != address);
        if len < BLOCK {
            return;
        }
        if self.reads.len() >= READS_MAX {
            self.reads.pop_front();
        }
        self.reads.push_back(Delivery {
            fd,
            file,
            address,
            len,
            at,
        });
    }

    /// A process is about to write `data` to a file. To be called each time that the write is
    /// considered, before the rest is asked.
    pub(super) fn writes(&mut self, memory: Memory<'_>, root: Root, to: FileId, data: UserData) {
        self.handed = self.handed_over(memory, root, to, data);
        if let Some(handed) = self.handed
            && self.pair(handed.from.file, to).is_none()
        {
            self.begin(Pair {
                from: handed.from.file,
                to,
                ..Pair::default()
            });
        }
    }

    fn handed_over(
        &self,
        memory: Memory<'_>,
        root: Root,
        to: FileId,
        data: UserData,
    ) -> Option<Handed> {
        // Most processes that write have not read what they write.
        if self.reads.is_empty() {
            return None;
        }
        let pieces = pieces(memory, root, data);
        let &(address, len) = pieces.first()?;
        if len < BLOCK {
            return None;
        }
        let from = self.reads.iter().rev().find(|read| {
            let within = address.checked_sub(read.address);
            read.file != to && within.is_some_and(|within| within < read.len)
        })?;
        Some(Handed {
            from: *from,
            to,
            address,
            len,
            total: pieces
                .iter()
                .fold(0, |sum, (_, len)| len.saturating_add(sum)),
        })
    }

    /// What is to be asked about the write that is looked at. `stands` says of a descriptor that is
    /// known where it is, if that is known too.
    pub(super) fn question(&self, stands: impl Fn(i32) -> Option<Option<u64>>) -> Option<Question> {
        let handed = self.handed?;
        let pair = self.pair(handed.from.file, handed.to)?;
        let blocks = handed.len / BLOCK;
        let samples = pair.samples(blocks);
        if pair.asked >= samples {
            return None;
        }
        let fd = handed.from.fd;
        let stands = stands(fd)?;
        if stands.is_none() && handed.from.at.is_none() {
            return Some(Question::Offset { fd });
        }
        let from = handed.start(stands.unwrap_or_default())?;
        // Spread over the whole write.
        let within = u64::from(pair.asked) * blocks / u64::from(samples) * BLOCK;
        Some(Question::Content {
            fd,
            from: from.checked_add(within)?,
            address: handed.address.checked_add(within)?,
        })
    }

    /// The kernel said what a block of the source begins with, or nothing, of a write that has
    /// `written` there. Whether a copy is recognised by that.
    pub(super) fn compared(
        &mut self,
        from: FileId,
        to: FileId,
        source: Option<&[u8]>,
        written: &[u8],
    ) -> bool {
        let Some(pair) = self.pair_mut(from, to) else {
            return false;
        };
        pair.asked = pair.asked.saturating_add(1);
        pair.trusted = 0;
        let was = pair.is_copy();
        if source != Some(written) && !mutant("what is encrypted in its place is a copy") {
            pair.asked = u32::MAX;
            pair.matches = 0;
            pair.mismatches = pair.mismatches.saturating_add(1);
        } else if written.iter().any(|&byte| byte != 0) {
            pair.matches = pair.matches.saturating_add(1);
            pair.mismatches = 0;
        }
        pair.is_copy() && !was
    }

    /// The write that was looked at is about to be made. Whether it is part of a copy.
    pub(super) fn wrote(&mut self, to: FileId) -> bool {
        let from = self.handed.take().map(|handed| handed.from.file);
        let mut copies = false;
        for pair in self.pairs.iter_mut().filter(|pair| pair.to == to) {
            if from == Some(pair.from) {
                copies |= pair.is_copy();
                (pair.asked, pair.strays) = (0, 0);
                pair.trusted = pair.trusted.saturating_add(1);
            } else {
                pair.strays += 1;
            }
        }
        self.pairs
            .retain(|pair| pair.to != to || pair.strays < STRAYS_MAX);
        copies
    }

    /// The kernel moves data from one file to another, either of which may be a pipe. Whether a copy
    /// is recognised by that.
    pub(super) fn transfers(&mut self, from: (FileId, bool), to: (FileId, bool)) -> bool {
        let source = match (from, to) {
            ((source, true), (pipe, false)) => {
                self.piped = Some((pipe, source));
                return false;
            }
            ((source, true), (_, true)) => source,
            ((pipe, false), (_, true)) => match self.piped {
                Some((piped, source)) if piped == pipe => source,
                _ => return false,
            },
            _ => return false,
        };
        let target = to.0;
        if source == target || self.pair(source, target).is_some_and(Pair::is_copy) {
            return false;
        }
        self.pairs
            .retain(|pair| (pair.from, pair.to) != (source, target));
        self.begin(Pair {
            from: source,
            to: target,
            matches: MATCHES_MIN,
            ..Pair::default()
        });
        true
    }

    /// Whether a file is the source of a copy in progress.
    pub(super) fn has_source(&self, file: FileId) -> bool {
        self.pairs
            .iter()
            .any(|pair| pair.from == file && pair.is_copy())
    }

    /// These files are closed.
    pub(super) fn forget(&mut self, closed: impl Fn(FileId) -> bool) {
        self.reads.retain(|read| !closed(read.file));
        self.pairs
            .retain(|pair| !closed(pair.from) && !closed(pair.to));
        self.piped
            .take_if(|(pipe, source)| closed(*pipe) || closed(*source));
    }

    fn begin(&mut self, pair: Pair) {
        if self.pairs.len() >= PAIRS_MAX {
            self.pairs.pop_front();
        }
        self.pairs.push_back(pair);
    }

    fn pair(&self, from: FileId, to: FileId) -> Option<&Pair> {
        let is_it = |pair: &&Pair| pair.from == from && pair.to == to;
        self.pairs.iter().find(is_it)
    }

    fn pair_mut(&mut self, from: FileId, to: FileId) -> Option<&mut Pair> {
        let is_it = |pair: &&mut Pair| pair.from == from && pair.to == to;
        self.pairs.iter_mut().find(is_it)
    }
}

/// What a process has at `address`, as much as the kernel is asked for; as far as it is there.
pub(super) fn sample(memory: Memory<'_>, root: Root, address: u64) -> Vec<u8> {
    let mut bytes = vec![0; CONTENT_BYTES];
    let len = memory.read_user(root, address, &mut bytes);
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests;
