//! What the benchmarks over NBD share: the protocol, the programs, the content of images.

mod content;
mod programs;
mod wire;

pub(super) use content::{block_start, fill, stamp, warm};
pub(super) use programs::{Programs, qemu_with_nodes, serve_qemu};
pub(super) use wire::{Command, REPLY_BYTES, Request, connect, reply_cookie};
