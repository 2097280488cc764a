//! Which block leaves a full cache for another.
//!
//! A policy knows slots, what block is in each, and its class: it does no I/O and has no clock. What
//! blocks of a higher class are worth is a credit ([`Credits`]): so many times more such a block is
//! let go on, when it would have to leave.

mod credits;
mod ghost;
mod lru;
mod queue;
mod s3_fifo;

use std::fmt;
use std::str::FromStr;

use crate::{Class, Error};
use credits::Credits;
use lru::Lru;
use s3_fifo::S3Fifo;

/// How a full cache chooses what leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyKind {
    /// S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023): what is
    /// read once leaves soon, so that a scan takes a tenth of the cache.
    #[default]
    S3Fifo,
    /// What was used least recently leaves.
    Lru,
}

impl PolicyKind {
    /// All of them, by name, for messages.
    pub const KNOWN: &'static str = "s3-fifo, lru";
}

impl FromStr for PolicyKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "s3-fifo" => Ok(Self::S3Fifo),
            "lru" => Ok(Self::Lru),
            _ => Err(Error::UnknownPolicy {
                name: name.to_owned(),
            }),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S3Fifo => "s3-fifo",
            Self::Lru => "lru",
        })
    }
}

/// How a block comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) class: Class,
    /// With so many others at once that each was cheap.
    pub(super) came_in_run: bool,
}

impl Arrival {
    /// With few others, or nobody knows.
    pub(super) fn alone(class: Class) -> Self {
        Self {
            class,
            came_in_run: false,
        }
    }
}

/// The blocks that may leave, in an order of its own.
pub(super) trait Policy {
    /// `block` is in `slot` from now on, which was none of the policy's.
    fn insert(&mut self, slot: u32, block: u64, arrival: Arrival);

    /// What is in `slot`, which is the policy's, was used.
    fn touch(&mut self, slot: u32);

    /// `slot`, which is the policy's, is so no more, for another reason than to make room.
    fn remove(&mut self, slot: u32);

    /// Chooses the slot that is made room in, which is the policy's no more.
    fn evict(&mut self) -> Option<u32>;

    /// How many slots are the policy's.
    #[cfg(test)]
    fn len(&self) -> usize;

    /// How many of them are let go on for their class.
    #[cfg(test)]
    fn favoured(&self) -> usize;
}

/// A policy for so many slots, which tells classes apart or does not.
pub(super) fn policy(kind: PolicyKind, slots: u32, by_class: bool) -> Box<dyn Policy> {
    let credits = Credits::new(slots, by_class);
    match kind {
        PolicyKind::S3Fifo => Box::new(S3Fifo::new(slots, credits)),
        PolicyKind::Lru => Box::new(Lru::new(slots, credits)),
    }
}

#[cfg(test)]
mod tests;
