//! A disk as a raw file, through the kernel's FUSE.
//!
//! ```text
//!   a program's read, write, fsync ──> kernel ──/dev/fuse──> Session ──spawn──> Volume
//!                                        ^                                        │
//!                                        │                                     ByteDisk ──> disk::Disk
//!                                        └──────────────── reply ─────────────────┘
//! ```
//! The session, every request and the disk itself are tasks of one executor, which sleeps in one
//! place for `/dev/fuse` and for completions: no request changes threads. What the page cache can
//! answer is answered before the next request is received; the rest is in flight at once.
//!
//! What goes through `/dev/fuse` is specified in `include/uapi/linux/fuse.h` of the Linux kernel.

mod abi;
mod attributes;
mod device;
mod directory;
mod errno;
mod file;
mod flight;
mod fusermount;
#[cfg(test)]
mod ground_truth;
mod identity;
mod inbox;
mod init;
mod life;
mod mount;
mod mount_point;
mod request;
mod seek;
mod session;
mod volume;

pub(crate) use directory::FILE_NAME;
pub(crate) use file::RawFile;
pub(crate) use life::serve;
pub(crate) use mount::{Mount, MountOptions};
pub(crate) use mount_point::{Kind, MountPoint};
pub(crate) use session::Session;
pub(crate) use volume::Volume;

/// The most data of a read or a write: what the kernel takes unless its administrator says
/// otherwise (`fs.fuse.max_pages_limit`).
const TRANSFER_MAX_BYTES: u32 = 1 << 20;
