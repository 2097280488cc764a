//! Drives a virtio block device (virtio 1.2 section 5.2).

use crate::command_line::CommandLine;
use crate::device::Device;
use crate::memory::{DATA, HEADER, read, write};
use crate::transport::{Either, Transport};
use crate::virtqueue::{Descriptor, End, NEXT, WRITE};
use crate::{Outcome, console, pattern};

/// The device type (virtio 1.2 section 5).
pub const DEVICE_TYPE: u16 = 2;

/// Feature bits (virtio 1.2 section 5.2.3).
pub const READ_ONLY: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// All the features this driver can use.
pub const FEATURES: u64 = READ_ONLY | FLUSH | DISCARD | WRITE_ZEROES;

/// A unit of the addresses and lengths of requests.
pub const SECTOR_BYTES: u64 = 512;

/// How much one request reads or writes.
const REQUEST_BYTES: u32 = 4096;

/// Where the answer to a request is written.
pub const STATUS: u64 = HEADER + 16;

/// A status that no device writes, to see whether it has written one.
pub const NO_STATUS: u8 = 0xff;
/// The request was carried out.
pub const OK: u8 = 0;
/// The request failed.
pub const IO_ERROR: u8 = 1;
/// The device does not know such a request.
pub const UNSUPPORTED: u8 = 2;

/// What a request asks for (virtio 1.2 section 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Read sectors.
    In = 0,
    /// Write sectors.
    Out = 1,
    /// Make what was written durable.
    Flush = 4,
    /// Give the device's serial number.
    GetId = 8,
    /// Forget sectors.
    Discard = 11,
    /// Clear sectors.
    WriteZeroes = 13,
}

impl Kind {
    fn device_writes(self) -> bool {
        matches!(self, Self::In | Self::GetId)
    }
}

/// A running block device.
pub struct Block<'a> {
    /// The device and its queue.
    pub device: Device<'a>,
    /// Its size in sectors.
    pub capacity_sectors: u64,
}

impl<'a> Block<'a> {
    /// Starts the device behind `transport`.
    pub fn start(transport: &'a dyn Transport) -> Outcome<Self> {
        let device = Device::start(transport, FEATURES)?;
        let capacity_sectors =
            u64::from(transport.config(4)) << 32 | u64::from(transport.config(0));
        Ok(Self {
            device,
            capacity_sectors,
        })
    }

    /// Sends a request of `len_bytes` of data at `data` and gives its status.
    pub fn request(&mut self, kind: Kind, sector: u64, data: u64, len_bytes: u32) -> Outcome<u8> {
        write_header(kind as u32, sector);
        let queue = &mut self.device.queue;
        let table = queue.rings().descriptors;
        let status = if len_bytes == 0 { 1 } else { 2 };
        queue.put(
            table,
            0,
            Descriptor {
                address: HEADER,
                len_bytes: 16,
                flags: NEXT,
                next: 1,
            },
        );
        if len_bytes != 0 {
            let flags = NEXT | if kind.device_writes() { WRITE } else { 0 };
            queue.put(
                table,
                1,
                Descriptor {
                    address: data,
                    len_bytes,
                    flags,
                    next: 2,
                },
            );
        }
        let answer = Descriptor {
            address: STATUS,
            len_bytes: 1,
            flags: WRITE,
            next: 0,
        };
        queue.put(table, status, answer);
        match queue.offer(self.device.transport, 0) {
            End::Used => Ok(read(STATUS)),
            End::Broken => Err("the device broke on a correct request"),
            End::Silent => Err("the device does not answer"),
        }
    }

    /// Sends a request that must succeed.
    pub fn demand(&mut self, kind: Kind, sector: u64, data: u64, len_bytes: u32) -> Outcome {
        match self.request(kind, sector, data, len_bytes)? {
            OK => Ok(()),
            IO_ERROR => Err("a correct request met an I/O error"),
            UNSUPPORTED => Err("a request that was offered is not supported"),
            _ => Err("a request ended without a status"),
        }
    }

    fn has(&self, feature: u64) -> bool {
        self.device.features & feature != 0
    }
}

/// Writes a request's header and takes back the last answer.
pub fn write_header(kind: u32, sector: u64) {
    write(HEADER, kind);
    write(HEADER + 4, 0_u32);
    write(HEADER + 8, sector);
    write(STATUS, NO_STATUS);
}

/// Writes, flushes, reads back and compares; then tries what else the device offers.
pub(crate) fn run(command_line: &CommandLine) -> Outcome {
    let found = Either::find(command_line, DEVICE_TYPE)?;
    let mut block = Block::start(found.transport())?;
    console::print("capacity ");
    console::print_number(block.capacity_sectors);
    console::print("\n");
    print_serial(&mut block)?;
    if block.has(READ_ONLY) {
        return refuses_writes(&mut block);
    }
    let len_bytes = command_line.number("kib").unwrap_or(64) * 1024;
    if !len_bytes.is_multiple_of(REQUEST_BYTES.into()) || len_bytes == 0 || len_bytes > 1 << 30 {
        return Err("kib= must be a multiple of 4, up to a GiB");
    }
    if len_bytes / SECTOR_BYTES > block.capacity_sectors {
        return Err("the disk is smaller than the test");
    }
    write_and_read_back(&mut block, len_bytes)?;
    clear(&mut block)
}

fn print_serial(block: &mut Block) -> Outcome {
    const SERIAL_BYTES: u32 = 20;
    pattern::fill_with(DATA, 24, 0);
    block.demand(Kind::GetId, 0, DATA, SERIAL_BYTES)?;
    console::print("serial ");
    for offset in 0..u64::from(SERIAL_BYTES) {
        match read(DATA + offset) {
            0 => break,
            byte => console::print_byte(byte),
        }
    }
    console::print("\n");
    Ok(())
}

fn refuses_writes(block: &mut Block) -> Outcome {
    console::print("read-only\n");
    block.demand(Kind::In, 0, DATA, 512)?;
    match block.request(Kind::Out, 0, DATA, 512)? {
        IO_ERROR => Ok(()),
        _ => Err("a read-only disk took a write"),
    }
}

fn write_and_read_back(block: &mut Block, len_bytes: u64) -> Outcome {
    let request_bytes = u64::from(REQUEST_BYTES);
    let places = || (0..len_bytes).step_by(4096);
    for place in places() {
        pattern::fill(DATA, request_bytes, place);
        block.demand(Kind::Out, place / SECTOR_BYTES, DATA, REQUEST_BYTES)?;
    }
    if block.has(FLUSH) {
        block.demand(Kind::Flush, 0, 0, 0)?;
    }
    for place in places() {
        pattern::fill_with(DATA, request_bytes, 0);
        block.demand(Kind::In, place / SECTOR_BYTES, DATA, REQUEST_BYTES)?;
        if !pattern::holds(DATA, request_bytes, place) {
            return Err("what was read is not what was written");
        }
    }
    console::print("data ok\n");
    Ok(())
}

/// Clears the first and discards the second kibibyte (virtio 1.2 section 5.2.6, struct
/// `virtio_blk_discard_write_zeroes`).
fn clear(block: &mut Block) -> Outcome {
    const SEGMENT: u64 = DATA;
    const READ: u64 = DATA + 0x1000;
    let segment = |sector: u64| {
        write(SEGMENT, sector);
        write(SEGMENT + 8, 2_u32);
        write(SEGMENT + 12, 0_u32);
    };
    if block.has(WRITE_ZEROES) {
        segment(0);
        block.demand(Kind::WriteZeroes, 0, SEGMENT, 16)?;
        block.demand(Kind::In, 0, READ, 1024)?;
        if !pattern::is_zero(READ, 1024) {
            return Err("sectors that were cleared are not zero");
        }
        console::print("write zeroes ok\n");
    }
    if block.has(DISCARD) {
        segment(2);
        block.demand(Kind::Discard, 0, SEGMENT, 16)?;
        console::print("discard ok\n");
    }
    Ok(())
}
