//! What a driver asks: a chain turned into a command whose every number is checked
//! (virtio 1.2 section 5.2.6).

use std::ops::Range;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::config_space::{
    DISCARD_RANGES_MAX, DISCARD_SECTORS_MAX, REQUEST_BYTES_MAX, SECTOR_BYTES, ZERO_RANGES_MAX,
    ZERO_SECTORS_MAX,
};
use crate::virtio::chain::{Chain, Pieces, TooShort, Violation};

/// `struct virtio_blk_req` up to its data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    pub(super) kind: U32,
    pub(super) reserved: U32,
    pub(super) sector: U64,
}

/// `struct virtio_blk_discard_write_zeroes`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RangeToClear {
    pub(super) sector: U64,
    pub(super) sectors: U32,
    pub(super) flags: U32,
}

/// What a request that clears ranges may have.
struct Clearing {
    ranges_max: u32,
    /// The most sectors of a range.
    sectors_max: u32,
    flags: u32,
}

const DISCARD: Clearing = Clearing {
    ranges_max: DISCARD_RANGES_MAX,
    sectors_max: DISCARD_SECTORS_MAX,
    flags: 0,
};

const WRITE_ZEROES: Clearing = Clearing {
    ranges_max: ZERO_RANGES_MAX,
    sectors_max: ZERO_SECTORS_MAX,
    flags: VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

const _: () = assert!(size_of::<Header>() == 16 && size_of::<RangeToClear>() == 16);

/// The last byte of every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    IoError,
    Unsupported,
}

impl Status {
    pub(super) fn byte(self) -> u8 {
        let status = match self {
            Self::Ok => VIRTIO_BLK_S_OK,
            Self::IoError => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        status.to_le_bytes()[0]
    }
}

impl From<TooShort> for Status {
    fn from(_: TooShort) -> Self {
        Self::IoError
    }
}

/// What to do, in bytes that lie within the disk.
#[derive(Debug)]
pub(super) enum Command {
    Read { offset: u64, target: Pieces },
    Write { offset: u64, source: Pieces },
    Flush,
    GetId { target: Pieces },
    Discard(Vec<Range<u64>>),
    WriteZeroes(Vec<(Range<u64>, Unmap)>),
}

/// Whether zeroed sectors may lose their space.
pub(super) type Unmap = bool;

/// A request that can be answered.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) head: u16,
    /// Where the status byte goes.
    pub(super) status: GuestAddress,
    /// What the driver gave for data before it.
    pub(super) writable_bytes: u64,
    /// What to do, or why not.
    pub(super) command: Result<Command, Status>,
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) size_bytes: u64,
    pub(super) read_only: bool,
    /// The features that both sides agreed on.
    pub(super) features: u64,
}

impl Request {
    /// Understands `chain`. Only one without room for a status is beyond an answer.
    pub(super) fn parse(
        chain: Chain,
        memory: &GuestMemoryMmap,
        limits: &Limits,
    ) -> Result<Self, Violation> {
        let Chain {
            head,
            readable,
            mut writable,
        } = chain;
        let status = writable.take_last().ok_or(Violation::NoAnswer)?;
        let writable_bytes = writable.len_bytes();
        let command = limits.command(readable, writable, memory);
        Ok(Self {
            head,
            status,
            writable_bytes,
            command,
        })
    }
}

impl Limits {
    fn command(
        &self,
        mut readable: Pieces,
        writable: Pieces,
        memory: &GuestMemoryMmap,
    ) -> Result<Command, Status> {
        let mut header = Header::new_zeroed();
        readable.take_front(memory, header.as_mut_bytes())?;
        match header.kind.get() {
            VIRTIO_BLK_T_IN => {
                let offset = self.data_offset(header.sector, &writable)?;
                Ok(Command::Read {
                    offset,
                    target: writable,
                })
            }
            VIRTIO_BLK_T_OUT => {
                if self.read_only {
                    return Err(Status::IoError);
                }
                let offset = self.data_offset(header.sector, &readable)?;
                Ok(Command::Write {
                    offset,
                    source: readable,
                })
            }
            VIRTIO_BLK_T_FLUSH => Ok(Command::Flush),
            VIRTIO_BLK_T_GET_ID => Ok(Command::GetId { target: writable }),
            VIRTIO_BLK_T_DISCARD if self.has(VIRTIO_BLK_F_DISCARD) => {
                let ranges = self.ranges(readable, memory, &DISCARD)?;
                Ok(Command::Discard(
                    ranges.into_iter().map(|(range, _)| range).collect(),
                ))
            }
            VIRTIO_BLK_T_WRITE_ZEROES if self.has(VIRTIO_BLK_F_WRITE_ZEROES) => {
                let ranges = self.ranges(readable, memory, &WRITE_ZEROES)?;
                Ok(Command::WriteZeroes(ranges))
            }
            _ => Err(Status::Unsupported),
        }
    }

    fn has(&self, feature: u32) -> bool {
        self.features & (1 << feature) != 0
    }

    /// Where on the disk `data` belongs, in bytes.
    fn data_offset(&self, sector: U64, data: &Pieces) -> Result<u64, Status> {
        let len_bytes = data.len_bytes();
        if len_bytes > REQUEST_BYTES_MAX || !len_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(Status::IoError);
        }
        Ok(self.range(sector, len_bytes / SECTOR_BYTES)?.start)
    }

    /// The bytes of some sectors, which lie within the disk.
    fn range(&self, sector: U64, sectors: u64) -> Result<Range<u64>, Status> {
        let start = sector
            .get()
            .checked_mul(SECTOR_BYTES)
            .ok_or(Status::IoError)?;
        let len_bytes = sectors.checked_mul(SECTOR_BYTES).ok_or(Status::IoError)?;
        let end = start.checked_add(len_bytes).ok_or(Status::IoError)?;
        if end <= self.size_bytes {
            Ok(start..end)
        } else {
            Err(Status::IoError)
        }
    }

    /// The ranges of a discard or write-zeroes request, all of them checked before any is done.
    fn ranges(
        &self,
        mut source: Pieces,
        memory: &GuestMemoryMmap,
        clearing: &Clearing,
    ) -> Result<Vec<(Range<u64>, Unmap)>, Status> {
        let count = source.len_bytes() / size_of::<RangeToClear>() as u64;
        let whole = source
            .len_bytes()
            .is_multiple_of(size_of::<RangeToClear>() as u64);
        if !whole || count == 0 || count > u64::from(clearing.ranges_max) {
            return Err(Status::IoError);
        }
        let mut ranges = Vec::new();
        while !source.is_empty() {
            let mut range = RangeToClear::new_zeroed();
            source.take_front(memory, range.as_mut_bytes())?;
            if range.flags.get() & !clearing.flags != 0 {
                return Err(Status::Unsupported);
            }
            if range.sectors.get() > clearing.sectors_max {
                return Err(Status::IoError);
            }
            let unmap = range.flags.get() & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
            ranges.push((self.range(range.sector, range.sectors.get().into())?, unmap));
        }
        Ok(ranges)
    }
}
