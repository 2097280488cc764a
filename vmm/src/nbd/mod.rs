//! A server of the Network Block Device protocol, fixed newstyle, for one disk.
//!
//! ```text
//!   client ──> Inbox ──> handshake ──Terms──> Connection ──spawn──> request task ──> disk::Disk
//!                                                                       │
//!   client <─────────────────────── Outbox <──────────── reply ─────────┘
//! ```
//! Every connection, every request and the disk itself are tasks of one executor: a request is
//! never handed from a thread to another. What the page cache can answer is answered before the
//! next request is looked at; the rest is in flight at once, and answered as it completes.
//!
//! The protocol is specified in `doc/proto.md` of the NBD project.

mod budget;
mod connection;
mod end;
mod execute;
mod export;
mod handshake;
mod inbox;
mod notify;
mod options;
mod outbox;
mod pool;
mod reply;
mod request;
mod server;
mod socket_path;
mod wire;
mod write_order;

pub(crate) use export::Export;
pub(crate) use server::Server;
pub(crate) use socket_path::SocketPath;
