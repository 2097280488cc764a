//! Changes of a simulated disk's content.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use super::fault::Operation;
use crate::rng::Rng;

/// What is never torn.
pub(super) const SECTOR_BYTES: u64 = 512;

/// A change of the content. Clones share the bytes.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, bytes: Rc<[u8]> },
    Zero { offset: u64, len: u64, unmap: bool },
    SetLen { size_bytes: u64 },
}

impl Change {
    /// What a fault must name to hit it.
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Write { .. } => Operation::Write,
            Self::Zero { .. } => Operation::Zero,
            Self::SetLen { .. } => Operation::SetLen,
        }
    }

    /// Where it changes bytes, and how many; a new size changes none.
    pub(super) fn extent(&self) -> (u64, u64) {
        match self {
            Self::Write { offset, bytes } => (*offset, bytes.len() as u64),
            Self::Zero { offset, len, .. } => (*offset, *len),
            Self::SetLen { size_bytes } => (*size_bytes, 0),
        }
    }

    /// Whether both change the same bytes. A new size changes all that is behind it.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let range = |change: &Self| match change.extent() {
            (size_bytes, 0) if matches!(change, Self::SetLen { .. }) => size_bytes..u64::MAX,
            (offset, len) => offset..offset + len,
        };
        let (ours, theirs) = (range(self), range(other));
        ours.start < theirs.end && theirs.start < ours.end
    }

    /// Whether it stays below the largest file offset.
    pub(super) fn is_possible(&self) -> bool {
        let (offset, len) = self.extent();
        offset
            .checked_add(len)
            .is_some_and(|end| i64::try_from(end).is_ok())
    }

    /// Runs of some of its sectors, each of them in it or not with equal chance. A new size is one
    /// run of no length, or none.
    pub(super) fn torn(&self, rng: &mut Rng) -> Vec<Range<u64>> {
        let (start, len) = self.extent();
        let end = start + len;
        let mut runs: Vec<Range<u64>> = Vec::new();
        if len == 0 && rng.coin() {
            runs.push(start..end);
        }
        let mut at = start;
        while at < end {
            let next = (at - at % SECTOR_BYTES + SECTOR_BYTES).min(end);
            if rng.coin() {
                match runs.last_mut() {
                    Some(run) if run.end == at => run.end = next,
                    _ => runs.push(at..next),
                }
            }
            at = next;
        }
        runs
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, len) = self.extent();
        match self {
            Self::Write { .. } => write!(f, "write of {len} bytes at {offset}"),
            Self::Zero { unmap: true, .. } => write!(f, "{len} bytes at {offset} discarded"),
            Self::Zero { unmap: false, .. } => write!(f, "{len} bytes at {offset} zeroed"),
            Self::SetLen { size_bytes } => write!(f, "resize to {size_bytes} bytes"),
        }
    }
}
