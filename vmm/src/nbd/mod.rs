//! A server of the Network Block Device protocol, fixed newstyle, for one disk or several.
//!
//! ```text
//!   client ──Link──> Inbox ──> handshake ──Terms──> Connection ──spawn──> request task ──> ByteDisk
//!                                                                             │
//!   client <──Link── Outbox <──────────────────────────── reply ──────────────┘
//! ```
//! A link is a socket, or a TLS session on one; nothing else knows which.
//!
//! Every connection, every request and the disk itself are tasks of one executor: a request is
//! never handed from a thread to another. What the page cache can answer is answered before the
//! next request is looked at; the rest is in flight at once, and answered as it completes.
//!
//! The protocol is specified in `doc/proto.md` of the NBD project.

mod address;
#[cfg(test)]
mod authority;
mod budget;
mod certificates;
mod connection;
mod end;
mod endpoint;
mod execute;
mod export;
mod exports;
mod haggling;
mod handshake;
mod inbox;
mod link;
mod listener;
mod lottery;
mod options;
mod outbox;
mod peer;
mod reply;
mod request;
mod server;
mod service;
mod tls;
mod uri;

pub(crate) use address::Address;
pub(crate) use certificates::Certificates;
pub(crate) use endpoint::Endpoint;
pub(crate) use export::Export;
pub(crate) use server::Server;
