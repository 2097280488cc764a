//! Makes guest parts without root: kernels out of Debian packages, initial RAM file systems,
//! disks, and the bare-metal test guests.
//!
//! ```text
//!  apt (the host's own sources) --> Kernel --------------> initramfs::guest --> --initrd
//!                              \--> Busybox ------------/
//!  mke2fs -d ------------------------------------------> disk::ext4 --------> --disk
//!  mmdebstrap -----------------------------------------> debian::Root ------> --disk, --initrd
//!  images/guest, compiled by the build script ---------> baremetal ---------> --kernel
//! ```
//!
//! What takes long is made once and kept in a [`Cache`]. Nothing here needs root except the
//! installation of missing host programs ([`packages::require`]).

pub mod apt;
pub mod baremetal;
pub mod cache;
mod command;
pub mod cpio;
pub mod debian;
pub mod decompress;
pub mod disk;
mod elf;
pub mod error;
pub mod initramfs;
pub mod kernel;
pub mod modules;
pub mod packages;

pub use cache::Cache;
pub use error::Error;
pub use kernel::Kernel;

/// The result of making a guest part.
pub type Result<T, E = Error> = std::result::Result<T, E>;
