//! Whether the host has an `io_uring` that will do, and makes the best ring it can.

use std::io;

use io_uring::{Builder, IoUring, Probe, opcode};

/// What we ask of `io_uring`, with names for the log.
const OPERATIONS: [(u8, &str); 9] = [
    (opcode::Read::CODE, "read"),
    (opcode::Write::CODE, "write"),
    (opcode::Readv::CODE, "readv"),
    (opcode::Writev::CODE, "writev"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::Fallocate::CODE, "fallocate"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::Recv::CODE, "receive"),
    (opcode::AsyncCancel::CODE, "cancel"),
];

/// A way to set up a ring, and its name.
type Setup = (&'static str, fn(&mut Builder));

/// All of them, the best first; an older kernel refuses what it does not know.
const SETUPS: [Setup; 3] = [
    // Linux 6.1: completions are worked on when this thread asks for them, never by interrupting it.
    ("deferred task work, single issuer", |builder| {
        builder.setup_single_issuer().setup_defer_taskrun();
        builder.setup_taskrun_flag().setup_submit_all();
    }),
    // Linux 5.19: no interrupts between processors for completions.
    ("cooperative task work", |builder| {
        builder
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all();
    }),
    ("plain", |_| {}),
];

/// Makes a ring, and checks that it can do all that we ask of it.
pub(super) fn ring(entries: u32, completions: u32) -> io::Result<IoUring> {
    best_ring(entries, completions).map(|(ring, _)| ring)
}

/// The features in use if `io_uring` will do, else what is wrong.
pub(crate) fn uring_features() -> io::Result<&'static str> {
    best_ring(8, 16).map(|(_, features)| features)
}

fn best_ring(entries: u32, completions: u32) -> io::Result<(IoUring, &'static str)> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for (name, apply) in SETUPS {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completions).dontfork();
        apply(&mut builder);
        match builder.build(entries) {
            Ok(ring) => {
                check(&ring)?;
                return Ok((ring, name));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn check(ring: &IoUring) -> io::Result<()> {
    // Multishot poll has no flag of its own; it came with resource tagging, in Linux 5.13.
    if !ring.params().is_feature_nodrop() || !ring.params().is_feature_resource_tagging() {
        return Err(io::Error::other("too old, Linux 5.13 or later needed"));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    match OPERATIONS
        .iter()
        .find(|(code, _)| !probe.is_supported(*code))
    {
        Some((_, name)) => Err(io::Error::other(format!("no {name} operation"))),
        None => Ok(()),
    }
}
