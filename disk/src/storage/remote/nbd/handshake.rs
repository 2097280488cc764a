//! The handshake, fixed newstyle: from the greeting to the first request.

use std::io;
use std::rc::Rc;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes as _};

use super::inbox::Inbox;
use crate::nbd::{
    ALLOCATION_CONTEXT, BlockSizeInfo, ExportInfo, Greeting, MAGIC, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, OptionHeader, OptionReply, PAYLOAD_MAX_BYTES, handshake_flag, info, option,
    option_reply,
};
use crate::storage::remote::source::printable;
use crate::{Buffers, Stream};

/// The most replies to one option that are listened to: a server has a handful of things to say.
const REPLIES_MAX: usize = 64;
/// The longest of them.
const REPLY_MAX_BYTES: u32 = 64 << 10;
/// The largest that a server may insist on as the smallest.
const MINIMUM_MAX_BYTES: u32 = 64 << 10;

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) size_bytes: u64,
    /// What requests are a multiple of, and aligned to; a power of two.
    pub(super) minimum_bytes: u32,
    /// The most that is read at once.
    pub(super) maximum_bytes: u32,
    /// Whether reads are answered by structured replies.
    pub(super) is_structured: bool,
    /// By what number the server tells of holes and zeros, if it does.
    pub(super) allocation: Option<u32>,
}

/// Talks to a server until `export` can be read.
pub(super) async fn handshake(
    stream: &Rc<Stream>,
    inbox: &mut Inbox,
    export: &str,
) -> io::Result<Terms> {
    let mut haggling = Haggling { stream, inbox };
    haggling.greet().await?;
    let is_structured = haggling.ask_structured().await?;
    let allocation = if is_structured {
        haggling.ask_allocation(export).await?
    } else {
        None
    };
    let terms = haggling.go(export).await?;
    Ok(Terms {
        is_structured,
        allocation,
        ..terms
    })
}

struct Haggling<'a> {
    stream: &'a Stream,
    inbox: &'a mut Inbox,
}

/// A reply to an option.
struct Reply {
    kind: u32,
    data: Vec<u8>,
}

impl Haggling<'_> {
    async fn greet(&mut self) -> io::Result<()> {
        let greeting: Greeting = self.inbox.take().await?;
        if greeting.magic.get() != MAGIC {
            return Err(nonsense("is no NBD server"));
        }
        let flags = greeting.flags.get();
        let is_newstyle = greeting.option_magic.get() == OPTION_MAGIC;
        if !is_newstyle || flags & handshake_flag::FIXED_NEWSTYLE == 0 {
            return Err(nonsense(
                "speaks only an old form of NBD, not fixed newstyle",
            ));
        }
        let known = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        let answer = U32::new((flags & known).into());
        self.stream.send(Buffers::from_vec(answer.as_bytes())).await
    }

    async fn ask_structured(&mut self) -> io::Result<bool> {
        self.send(option::STRUCTURED_REPLY, &[]).await?;
        let reply = self.reply(option::STRUCTURED_REPLY).await?;
        if reply.kind == option_reply::ERR_TLS_REQUIRED {
            return Err(refusal(&reply));
        }
        Ok(reply.kind == option_reply::ACK)
    }

    /// By what number the server tells of holes and zeros; some do not.
    async fn ask_allocation(&mut self, export: &str) -> io::Result<Option<u32>> {
        let mut data = Vec::new();
        put_string(&mut data, export);
        data.extend_from_slice(U32::new(1).as_bytes());
        put_string(&mut data, ALLOCATION_CONTEXT);
        self.send(option::SET_META_CONTEXT, &data).await?;
        let mut id = None;
        for _ in 0..REPLIES_MAX {
            let reply = self.reply(option::SET_META_CONTEXT).await?;
            if reply.kind != option_reply::META_CONTEXT {
                return Ok(id.filter(|_| reply.kind == option_reply::ACK));
            }
            let (number, name) = U32::read_from_prefix(&reply.data)
                .map_err(|_| nonsense("names a metadata context in too few bytes"))?;
            if name == ALLOCATION_CONTEXT.as_bytes() {
                id = Some(number.get());
            }
        }
        Err(nonsense("has no end of metadata contexts"))
    }

    /// Begins to use the export.
    async fn go(&mut self, export: &str) -> io::Result<Terms> {
        let mut data = Vec::new();
        put_string(&mut data, export);
        data.extend_from_slice(U16::new(1).as_bytes());
        data.extend_from_slice(U16::new(info::BLOCK_SIZE).as_bytes());
        self.send(option::GO, &data).await?;
        let (mut size_bytes, mut blocks) = (None, (1, PAYLOAD_MAX_BYTES));
        for _ in 0..REPLIES_MAX {
            let reply = self.reply(option::GO).await?;
            match (reply.kind, size_bytes) {
                (option_reply::INFO, _) => {
                    if let Ok(export) = ExportInfo::read_from_bytes(&reply.data)
                        && export.kind.get() == info::EXPORT
                    {
                        size_bytes = Some(export.size.get());
                    } else if let Ok(sizes) = BlockSizeInfo::read_from_bytes(&reply.data)
                        && sizes.kind.get() == info::BLOCK_SIZE
                    {
                        blocks = block_sizes(&sizes)?;
                    }
                }
                (option_reply::ACK, Some(size_bytes)) => {
                    return Ok(Terms {
                        size_bytes,
                        minimum_bytes: blocks.0,
                        maximum_bytes: blocks.1,
                        is_structured: false,
                        allocation: None,
                    });
                }
                _ => return Err(refusal(&reply)),
            }
        }
        Err(nonsense("has no end of information on the export"))
    }

    async fn send(&self, option: u32, data: &[u8]) -> io::Result<()> {
        let header = OptionHeader {
            magic: OPTION_MAGIC.into(),
            option: option.into(),
            len: u32::try_from(data.len()).map_err(io::Error::other)?.into(),
        };
        let bytes = [header.as_bytes(), data].concat();
        self.stream.send(Buffers::from_vec(bytes)).await
    }

    async fn reply(&mut self, option: u32) -> io::Result<Reply> {
        let reply: OptionReply = self.inbox.take().await?;
        if reply.magic.get() != OPTION_REPLY_MAGIC || reply.option.get() != option {
            return Err(nonsense("replies to what nobody has asked"));
        }
        let len = reply.len.get();
        if len > REPLY_MAX_BYTES {
            return Err(nonsense("has an endless reply"));
        }
        Ok(Reply {
            kind: reply.kind.get(),
            data: self.inbox.take_bytes(len as usize).await?,
        })
    }
}

/// The smallest and the largest request, of what a server says.
fn block_sizes(sizes: &BlockSizeInfo) -> io::Result<(u32, u32)> {
    let (minimum, maximum) = (sizes.minimum.get(), sizes.maximum.get());
    if !minimum.is_power_of_two() || minimum > MINIMUM_MAX_BYTES || maximum < minimum {
        return Err(nonsense("asks for requests of a size that cannot be"));
    }
    let maximum = maximum.min(PAYLOAD_MAX_BYTES);
    Ok((minimum, maximum - maximum % minimum))
}

fn put_string(data: &mut Vec<u8>, text: &str) {
    let len = u32::try_from(text.len()).expect("names are short");
    data.extend_from_slice(U32::new(len).as_bytes());
    data.extend_from_slice(text.as_bytes());
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server {what}"))
}

/// What a server refuses, with what it says itself.
fn refusal(reply: &Reply) -> io::Error {
    let why = match reply.kind {
        option_reply::ERR_UNKNOWN => "the server has no such export",
        option_reply::ERR_TLS_REQUIRED => {
            "the server insists on TLS, which is not spoken here; have a tunnel do it"
        }
        option_reply::ERR_UNSUPPORTED => "the server is too old: it does not know NBD_OPT_GO",
        _ => "the server refuses to lend it",
    };
    io::Error::other(match printable(&reply.data) {
        message if message.is_empty() => why.to_owned(),
        message => format!("{why} ('{message}')"),
    })
}
