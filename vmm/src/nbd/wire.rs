//! What goes over the wire, as the protocol's `doc/proto.md` has it: everything is big-endian.

use std::mem::size_of;

use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The server's greeting: "NBDMAGIC", and what newstyle adds, "IHAVEOPT".
pub(super) const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT", which also begins every option.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// The longest string of the protocol, a name of an export for example.
pub(super) const STRING_MAX_BYTES: usize = 4096;
/// The most data of a read or a write: what clients may take for granted.
pub(super) const PAYLOAD_MAX_BYTES: u32 = 32 << 20;

/// Handshake flags of the server, and the same of the client.
pub(super) mod handshake_flag {
    pub(in crate::nbd) const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub(in crate::nbd) const NO_ZEROES: u16 = 1 << 1;
}

/// Options that a client may send (`NBD_OPT_*`).
pub(super) mod option {
    pub(in crate::nbd) const EXPORT_NAME: u32 = 1;
    pub(in crate::nbd) const ABORT: u32 = 2;
    pub(in crate::nbd) const LIST: u32 = 3;
    pub(in crate::nbd) const STARTTLS: u32 = 5;
    pub(in crate::nbd) const INFO: u32 = 6;
    pub(in crate::nbd) const GO: u32 = 7;
    pub(in crate::nbd) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::nbd) const LIST_META_CONTEXT: u32 = 9;
    pub(in crate::nbd) const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options (`NBD_REP_*`).
pub(super) mod option_reply {
    pub(in crate::nbd) const ACK: u32 = 1;
    pub(in crate::nbd) const SERVER: u32 = 2;
    pub(in crate::nbd) const INFO: u32 = 3;
    pub(in crate::nbd) const META_CONTEXT: u32 = 4;
    pub(in crate::nbd) const ERR_UNSUPPORTED: u32 = (1 << 31) + 1;
    pub(in crate::nbd) const ERR_INVALID: u32 = (1 << 31) + 3;
    pub(in crate::nbd) const ERR_TLS_REQUIRED: u32 = (1 << 31) + 5;
    pub(in crate::nbd) const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    pub(in crate::nbd) const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Pieces of information about an export (`NBD_INFO_*`).
pub(super) mod info {
    pub(in crate::nbd) const EXPORT: u16 = 0;
    pub(in crate::nbd) const NAME: u16 = 1;
    pub(in crate::nbd) const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags (`NBD_FLAG_*`).
pub(super) mod transmission_flag {
    pub(in crate::nbd) const HAS_FLAGS: u16 = 1 << 0;
    pub(in crate::nbd) const READ_ONLY: u16 = 1 << 1;
    pub(in crate::nbd) const SEND_FLUSH: u16 = 1 << 2;
    pub(in crate::nbd) const SEND_FUA: u16 = 1 << 3;
    pub(in crate::nbd) const SEND_TRIM: u16 = 1 << 5;
    pub(in crate::nbd) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(in crate::nbd) const SEND_DF: u16 = 1 << 7;
    pub(in crate::nbd) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(in crate::nbd) const SEND_CACHE: u16 = 1 << 10;
}

/// Requests (`NBD_CMD_*`).
pub(super) mod command {
    pub(in crate::nbd) const READ: u16 = 0;
    pub(in crate::nbd) const WRITE: u16 = 1;
    pub(in crate::nbd) const DISCONNECT: u16 = 2;
    pub(in crate::nbd) const FLUSH: u16 = 3;
    pub(in crate::nbd) const TRIM: u16 = 4;
    pub(in crate::nbd) const CACHE: u16 = 5;
    pub(in crate::nbd) const WRITE_ZEROES: u16 = 6;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests (`NBD_CMD_FLAG_*`).
pub(super) mod command_flag {
    pub(in crate::nbd) const FUA: u16 = 1 << 0;
    pub(in crate::nbd) const NO_HOLE: u16 = 1 << 1;
    pub(in crate::nbd) const DF: u16 = 1 << 2;
    pub(in crate::nbd) const REQ_ONE: u16 = 1 << 3;
}

/// Chunks of structured replies (`NBD_REPLY_TYPE_*`), and their one flag.
pub(super) mod chunk {
    pub(in crate::nbd) const FLAG_DONE: u16 = 1 << 0;
    pub(in crate::nbd) const NONE: u16 = 0;
    pub(in crate::nbd) const OFFSET_DATA: u16 = 1;
    pub(in crate::nbd) const OFFSET_HOLE: u16 = 2;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 5;
    pub(in crate::nbd) const ERROR: u16 = (1 << 15) + 1;
}

/// The states of the metadata context `base:allocation` (`NBD_STATE_*`).
pub(super) mod state {
    pub(in crate::nbd) const HOLE: u32 = 1 << 0;
    pub(in crate::nbd) const ZERO: u32 = 1 << 1;
}

/// What can go wrong with a request, as a number that is the same on every system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Errno {
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
        pub(super) struct $name {
            $(pub(super) $field: $type),+
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
