//! What the owner of a running machine may ask of it, through a socket (`--control PATH`).
//!
//! ```text
//!   microvm control PATH ... ──line──> server thread ──job──> task on the disk's thread
//! ```
//! A request is one line of JSON, and so is the reply. Whoever may connect to the socket may do
//! what the user may who started the machine: only that user may connect.

mod client;
mod disks;
mod protocol;
mod server;

pub(crate) use client::Arguments;
pub(crate) use disks::Disks;
pub(crate) use server::Server;
