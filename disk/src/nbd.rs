//! What goes over the wire between an NBD client and a server, as `doc/proto.md` of the NBD project has
//! it: everything is big-endian. The client is ours (`nbd://`), and so is the server (`image serve`).
#![expect(
    missing_docs,
    reason = "the names are the protocol's, where each is explained"
)]

use std::mem::size_of;

use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The server's greeting: "NBDMAGIC", and what newstyle adds, "IHAVEOPT".
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT", which also begins every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Begins every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// The longest string of the protocol, a name of an export for example.
pub const STRING_MAX_BYTES: usize = 4096;
/// The most data of a read or a write: what clients may take for granted.
pub const PAYLOAD_MAX_BYTES: u32 = 32 << 20;

/// Handshake flags of the server, and the same of the client.
pub mod handshake_flag {
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Options that a client may send (`NBD_OPT_*`).
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options (`NBD_REP_*`).
pub mod option_reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUPPORTED: u32 = (1 << 31) + 1;
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    pub const ERR_TLS_REQUIRED: u32 = (1 << 31) + 5;
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Pieces of information about an export (`NBD_INFO_*`).
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags (`NBD_FLAG_*`).
pub mod transmission_flag {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
}

/// Requests (`NBD_CMD_*`).
pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests (`NBD_CMD_FLAG_*`).
pub mod command_flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
}

/// Chunks of structured replies (`NBD_REPLY_TYPE_*`), and their one flag.
pub mod chunk {
    pub const FLAG_DONE: u16 = 1 << 0;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    /// What all errors have.
    pub const ERROR_BIT: u16 = 1 << 15;
    pub const ERROR: u16 = ERROR_BIT + 1;
}

/// The metadata context that tells holes and zeros.
pub const ALLOCATION_CONTEXT: &str = "base:allocation";

/// The states of the metadata context `base:allocation` (`NBD_STATE_*`).
pub mod state {
    pub const HOLE: u32 = 1 << 0;
    pub const ZERO: u32 = 1 << 1;
}

/// What can go wrong with a request, as a number that is the same on every system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    NotPermitted = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
}

macro_rules! wire_struct {
    ($(#[$doc:meta])* $name:ident, $bytes:literal { $($field:ident: $type:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub struct $name {
            $(pub $field: $type),+
        }
        const _: () = assert!(size_of::<$name>() == $bytes);
    };
}

wire_struct! {
    /// The server's first words.
    Greeting, 18 { magic: U64, option_magic: U64, flags: U16 }
}
wire_struct! {
    /// The start of an option.
    OptionHeader, 16 { magic: U64, option: U32, len: U32 }
}
wire_struct! {
    /// The start of a reply to an option.
    OptionReply, 20 { magic: U64, option: U32, kind: U32, len: U32 }
}
wire_struct! {
    /// The reply to `NBD_OPT_EXPORT_NAME`, but for zeros.
    ExportSummary, 10 { size: U64, flags: U16 }
}
wire_struct! {
    /// `NBD_INFO_EXPORT`.
    ExportInfo, 12 { kind: U16, size: U64, flags: U16 }
}
wire_struct! {
    /// `NBD_INFO_BLOCK_SIZE`.
    BlockSizeInfo, 14 { kind: U16, minimum: U32, preferred: U32, maximum: U32 }
}
wire_struct! {
    /// A request, which data follows if it is a write.
    RequestHeader, 28 { magic: U32, flags: U16, command: U16, cookie: U64, offset: U64, len: U32 }
}
wire_struct! {
    /// A simple reply, which data follows if it is to a read that succeeded.
    SimpleReply, 16 { magic: U32, error: U32, cookie: U64 }
}
wire_struct! {
    /// The start of a chunk of a structured reply.
    ChunkHeader, 20 { magic: U32, flags: U16, kind: U16, cookie: U64, len: U32 }
}
wire_struct! {
    /// The start of an `OFFSET_DATA` chunk.
    OffsetData, 28 { header: ChunkHeader, offset: U64 }
}
wire_struct! {
    /// An `OFFSET_HOLE` chunk.
    OffsetHole, 32 { header: ChunkHeader, offset: U64, len: U32 }
}
wire_struct! {
    /// An `ERROR` chunk, without its message.
    ErrorChunk, 26 { header: ChunkHeader, error: U32, message_len: U16 }
}
wire_struct! {
    /// The start of a `BLOCK_STATUS` chunk.
    BlockStatus, 24 { header: ChunkHeader, context: U32 }
}
wire_struct! {
    /// A stretch of the export in a `BLOCK_STATUS` chunk.
    Descriptor, 8 { len: U32, state: U32 }
}
