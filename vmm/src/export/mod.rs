//! What all ways to lend a disk have in common, whatever protocol the other side speaks.
//!
//! ```text
//!   nbd, fuse ──bytes──> ByteDisk ──sectors──> disk::Disk
//!                           │
//!                        Pool: memory for requests and replies
//! ```

mod byte_disk;
mod failure;
mod notify;
mod pool;
mod write_order;

pub(crate) use byte_disk::ByteDisk;
pub(crate) use failure::Failure;
pub(crate) use notify::Notify;
pub(crate) use pool::{HEADROOM, Pool};
