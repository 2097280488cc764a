//! The bare-metal test guest: a kernel of a few KiB that tests drive devices with, on any
//! `/dev/kvm`.
//!
//! What it does is chosen on the kernel's command line; the words are described at `run` in
//! `guest/src/lib.rs`. Its output ends with the line [`PASSED`], or one that begins with [`FAILED`].

use std::fs;
use std::path::PathBuf;

use crate::{Cache, Error, Result};

/// The guest, an ELF file that is entered like a 64-bit Linux kernel.
const GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));

/// The last line of a test that found nothing wrong.
pub const PASSED: &str = "ok";

/// What the last line of a failed test begins with; the reason follows.
pub const FAILED: &str = "FAIL: ";

/// Writes the guest into the cache; gives its path.
pub fn build(cache: &Cache) -> Result<PathBuf> {
    let name = format!("baremetal-{:08x}-{}", crc32c::crc32c(GUEST), GUEST.len());
    let entry = cache.entry(&name, |entry| {
        let path = entry.join("guest.elf");
        fs::write(&path, GUEST).map_err(Error::io("write", &path))
    })?;
    Ok(entry.join("guest.elf"))
}
