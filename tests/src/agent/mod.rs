//! The agent: runs commands for a client over a byte stream.
//!
//! In the lab it is the emulated host's init and listens on virtio-serial ports; where guests run
//! on the machine's own KVM it is a thread of the test program. Either way a test speaks the same
//! [`protocol`], so it cannot tell the two apart.

pub mod init;
pub mod measure;
pub mod protocol;
mod session;
mod spawn;

pub use session::serve;
pub(crate) use spawn::{die_with_parent, inherit};
