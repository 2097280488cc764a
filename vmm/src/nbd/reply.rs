//! Replies, as bytes.

use disk::Buffers;
use disk::nbd::{
    BlockStatus, CHUNK_MAGIC, ChunkHeader, Descriptor, ErrorChunk, OffsetData, OffsetHole,
    SIMPLE_REPLY_MAGIC, SimpleReply, chunk,
};
use zerocopy::{Immutable, IntoBytes};

use super::execute::Answer;
use super::export::ALLOCATION_CONTEXT_ID;
use super::request::{Command, Refusal, Request};
use crate::export::{HEADROOM, Pool};

/// Makes the replies of one connection.
pub(super) struct Replies {
    /// Whether reads are answered by structured replies, and with them every error.
    pub(super) structured: bool,
}

impl Replies {
    /// Answers a request that was done.
    pub(super) fn answer(&self, request: &Request, answer: Answer, pool: &Pool) -> Buffers {
        let cookie = request.cookie;
        match answer {
            Answer::Data(memory) if !self.structured => prepend(&simple_reply(cookie, 0), &memory),
            Answer::Done if self.structured && request.command == Command::Read => {
                whole(&chunk_header(cookie, chunk::NONE, 0), pool)
            }
            Answer::Done => whole(&simple_reply(cookie, 0), pool),
            Answer::Data(memory) => {
                let start = OffsetData {
                    header: chunk_header(cookie, chunk::OFFSET_DATA, request.len + 8),
                    offset: request.offset.into(),
                };
                prepend(&start, &memory)
            }
            Answer::Zeros => {
                let hole = OffsetHole {
                    header: chunk_header(cookie, chunk::OFFSET_HOLE, 12),
                    offset: request.offset.into(),
                    len: request.len.into(),
                };
                whole(&hole, pool)
            }
            Answer::Status(descriptors) => status(cookie, &descriptors),
        }
    }

    /// Answers a request that was not done.
    pub(super) fn refuse(&self, cookie: u64, refusal: Refusal, pool: &Pool) -> Buffers {
        let Refusal { errno, reason } = refusal;
        if !self.structured {
            return whole(&simple_reply(cookie, errno as u32), pool);
        }
        let message_len = u16::try_from(reason.len()).unwrap_or(0);
        let len = 6 + u32::from(message_len);
        let error = ErrorChunk {
            header: chunk_header(cookie, chunk::ERROR, len),
            error: (errno as u32).into(),
            message_len: message_len.into(),
        };
        let message = &reason.as_bytes()[..usize::from(message_len)];
        Buffers::from_vec([error.as_bytes(), message].concat())
    }
}

fn simple_reply(cookie: u64, error: u32) -> SimpleReply {
    SimpleReply {
        magic: SIMPLE_REPLY_MAGIC.into(),
        error: error.into(),
        cookie: cookie.into(),
    }
}

/// The start of the only chunk of a structured reply.
fn chunk_header(cookie: u64, kind: u16, len: u32) -> ChunkHeader {
    ChunkHeader {
        magic: CHUNK_MAGIC.into(),
        flags: chunk::FLAG_DONE.into(),
        kind: kind.into(),
        cookie: cookie.into(),
        len: len.into(),
    }
}

fn status(cookie: u64, descriptors: &[Descriptor]) -> Buffers {
    let descriptors = descriptors.as_bytes();
    let len = u32::try_from(4 + descriptors.len()).unwrap_or(u32::MAX);
    let start = BlockStatus {
        header: chunk_header(cookie, chunk::BLOCK_STATUS, len),
        context: ALLOCATION_CONTEXT_ID.into(),
    };
    Buffers::from_vec([start.as_bytes(), descriptors].concat())
}

/// A reply without data.
fn whole(reply: &(impl IntoBytes + Immutable), pool: &Pool) -> Buffers {
    let memory = pool.take(reply.as_bytes().len());
    memory.copy_from(reply.as_bytes());
    memory
}

/// Puts the start of a reply before its data, in the room that was left for it.
fn prepend(start: &(impl IntoBytes + Immutable), memory: &Buffers) -> Buffers {
    let start = start.as_bytes();
    let room = HEADROOM - start.len();
    memory.slice(room..HEADROOM).copy_from(start);
    memory.slice(room..memory.len())
}
