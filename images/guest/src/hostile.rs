//! Breaks the rules of virtio in every way, and checks that the device bears it: each offence
//! ends in an error status, a used chain or a device that asks for its reset, and after the reset
//! the device works.

use crate::block::{self, Block, FEATURES, IO_ERROR, Kind, NO_STATUS, STATUS, UNSUPPORTED};
use crate::command_line::CommandLine;
use crate::device::{self, Device};
use crate::memory::{DATA, HEADER, read, write};
use crate::pattern::Random;
use crate::transport::{Either, Transport};
use crate::virtqueue::{
    Descriptor, End, INDIRECT, INDIRECT_TABLE, NEEDS_RESET, NEXT, Rings, Virtqueue, WRITE,
};
use crate::{Outcome, console};

/// What an offence may end in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// This status, exactly.
    Status(u8),
    /// Anything but success and silence.
    Refusal,
}

/// A chain that breaks a rule: its name, header (kind, sector), descriptors and what must come
/// of it. Descriptor 0 is its head.
struct Offence {
    name: &'static str,
    header: (u32, u64),
    chain: &'static [Descriptor],
    expect: Expect,
}

const IN: u32 = Kind::In as u32;
const OUT: u32 = Kind::Out as u32;

const fn descriptor(address: u64, len_bytes: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address,
        len_bytes,
        flags,
        next,
    }
}

const REQUEST: Descriptor = descriptor(HEADER, 16, NEXT, 1);
const BUFFER: Descriptor = descriptor(DATA, 512, NEXT | WRITE, 2);
const ANSWER: Descriptor = descriptor(STATUS, 1, WRITE, 0);

/// Far above any guest's memory, without being the largest number.
const NOWHERE: u64 = 0xffff_0000_0000;

const OFFENCES: &[Offence] = &[
    Offence {
        name: "an unknown request",
        header: (0x1234, 0),
        chain: &[REQUEST, BUFFER, ANSWER],
        expect: Expect::Status(UNSUPPORTED),
    },
    Offence {
        name: "a sector past the end",
        header: (IN, 1 << 54),
        chain: &[REQUEST, BUFFER, ANSWER],
        expect: Expect::Status(IO_ERROR),
    },
    Offence {
        name: "a sector whose address overflows",
        header: (IN, u64::MAX),
        chain: &[REQUEST, BUFFER, ANSWER],
        expect: Expect::Status(IO_ERROR),
    },
    Offence {
        name: "a length that is no multiple of a sector",
        header: (IN, 0),
        chain: &[REQUEST, descriptor(DATA, 100, NEXT | WRITE, 2), ANSWER],
        expect: Expect::Status(IO_ERROR),
    },
    Offence {
        name: "a buffer outside memory",
        header: (OUT, 0),
        chain: &[REQUEST, descriptor(NOWHERE, 512, NEXT, 2), ANSWER],
        expect: Expect::Refusal,
    },
    Offence {
        name: "a buffer that wraps round",
        header: (IN, 0),
        chain: &[
            REQUEST,
            descriptor(u64::MAX - 8, 512, NEXT | WRITE, 2),
            ANSWER,
        ],
        expect: Expect::Refusal,
    },
    Offence {
        name: "a huge buffer",
        header: (IN, 0),
        chain: &[
            REQUEST,
            descriptor(DATA, 0xffff_fe00, NEXT | WRITE, 2),
            ANSWER,
        ],
        expect: Expect::Refusal,
    },
    Offence {
        name: "a header that is cut short",
        header: (IN, 0),
        chain: &[descriptor(HEADER, 8, NEXT, 1), ANSWER],
        expect: Expect::Refusal,
    },
    Offence {
        name: "a header outside memory",
        header: (IN, 0),
        chain: &[descriptor(NOWHERE, 16, NEXT, 1), BUFFER, ANSWER],
        expect: Expect::Refusal,
    },
    Offence {
        name: "no room for the answer",
        header: (OUT, 0),
        chain: &[REQUEST, descriptor(DATA, 512, 0, 0)],
        expect: Expect::Refusal,
    },
    Offence {
        name: "an empty chain",
        header: (IN, 0),
        chain: &[descriptor(HEADER, 0, 0, 0)],
        expect: Expect::Refusal,
    },
    Offence {
        name: "descriptors in a circle",
        header: (IN, 0),
        chain: &[REQUEST, descriptor(DATA, 512, NEXT | WRITE, 0)],
        expect: Expect::Refusal,
    },
    Offence {
        name: "a descriptor past the table",
        header: (IN, 0),
        chain: &[descriptor(HEADER, 16, NEXT, 0xfff0)],
        expect: Expect::Refusal,
    },
    Offence {
        name: "an indirect table outside memory",
        header: (IN, 0),
        chain: &[descriptor(NOWHERE, 48, INDIRECT, 0)],
        expect: Expect::Refusal,
    },
    Offence {
        name: "an indirect table of half a descriptor",
        header: (IN, 0),
        chain: &[descriptor(INDIRECT_TABLE, 24, INDIRECT, 0)],
        expect: Expect::Refusal,
    },
    Offence {
        name: "an indirect table of 4 GiB",
        header: (IN, 0),
        chain: &[descriptor(INDIRECT_TABLE, 0xffff_fff0, INDIRECT, 0)],
        expect: Expect::Refusal,
    },
    Offence {
        name: "an indirect table in itself",
        header: (IN, 0),
        chain: &[descriptor(INDIRECT_TABLE, 16, INDIRECT, 0)],
        expect: Expect::Refusal,
    },
];

/// The feature that lets a chain be in a table of its own (virtio 1.2 section 2.7.7).
const INDIRECT_DESC: u64 = 1 << 28;

/// Commits every offence in turn.
pub(crate) fn run(command_line: &CommandLine) -> Outcome {
    let found = Either::find(command_line, block::DEVICE_TYPE)?;
    let transport = found.transport();
    for offence in OFFENCES {
        console::print(offence.name);
        console::print(": ");
        commit(transport, offence)?;
        still_works(transport)?;
    }
    claim_too_many(transport)?;
    offer_past_the_table(transport)?;
    rings_outside_memory(transport)?;
    poke(transport, command_line.number("seed").unwrap_or(1))
}

fn commit(transport: &dyn Transport, offence: &Offence) -> Outcome {
    let mut device = Device::start(transport, FEATURES | INDIRECT_DESC)?;
    block::write_header(offence.header.0, offence.header.1);
    let (mut index, queue) = (0, &mut device.queue);
    for &descriptor in offence.chain {
        queue.put(queue.rings().descriptors, index, descriptor);
        index += 1;
    }
    // The table that points at itself, and is what the other tables hold too.
    queue.put(
        INDIRECT_TABLE,
        0,
        descriptor(INDIRECT_TABLE, 16, INDIRECT, 0),
    );
    let end = queue.offer(transport, 0);
    judge(end, offence.expect)
}

fn judge(end: End, expect: Expect) -> Outcome {
    let status = read::<u8>(STATUS);
    match end {
        End::Used if status == NO_STATUS => console::print("used"),
        End::Used => {
            console::print("status ");
            console::print_number(u64::from(status));
        }
        End::Broken => console::print("broken"),
        End::Silent => return Err("the device says nothing"),
    }
    console::print("\n");
    match expect {
        Expect::Status(expected) if end != End::Used || status != expected => {
            Err("another status was due")
        }
        Expect::Refusal if end == End::Used && status == block::OK => {
            Err("the device took it for a correct request")
        }
        _ => Ok(()),
    }
}

/// Resets the device and reads a sector.
fn still_works(transport: &dyn Transport) -> Outcome {
    Block::start(transport)?.demand(Kind::In, 0, DATA, 512)
}

/// Claims more chains than the queue can hold.
fn claim_too_many(transport: &dyn Transport) -> Outcome {
    console::print("more chains than the queue holds: ");
    let mut device = Device::start(transport, FEATURES)?;
    block::write_header(IN, 0);
    device.queue.put(
        device.queue.rings().descriptors,
        0,
        descriptor(HEADER, 16, 0, 0),
    );
    let end = device.queue.offer_many(transport, 0, 1000);
    judge(end, Expect::Refusal)?;
    still_works(transport)
}

/// Offers a chain whose head is past the descriptor table.
fn offer_past_the_table(transport: &dyn Transport) -> Outcome {
    console::print("a head past the table: ");
    let mut device = Device::start(transport, FEATURES)?;
    write(STATUS, NO_STATUS);
    let end = device.queue.offer(transport, 0xfff0);
    judge(end, Expect::Refusal)?;
    still_works(transport)
}

/// Starts the device with rings that lie nowhere: it must not start, or break when it looks.
fn rings_outside_memory(transport: &dyn Transport) -> Outcome {
    console::print("rings outside memory: ");
    device::negotiate(transport, FEATURES)?;
    let size = Virtqueue::new(transport.queue_size_max(0)).rings().size;
    let nowhere = Rings {
        size,
        descriptors: NOWHERE,
        available: NOWHERE + 0x1000,
        used: NOWHERE + 0x2000,
    };
    transport.enable_queue(0, &nowhere);
    device::set_driver_ok(transport);
    transport.notify(0);
    let broken = transport.status() & NEEDS_RESET != 0;
    console::print(if broken { "broken\n" } else { "ignored\n" });
    still_works(transport)
}

/// Writes random values to random registers.
fn poke(transport: &dyn Transport, seed: u64) -> Outcome {
    console::print("random registers, seed ");
    console::print_number(seed);
    console::print("\n");
    let mut random = Random::new(seed);
    for _ in 0..20 {
        transport.poke(&mut random, 100);
        still_works(transport)?;
    }
    Ok(())
}
