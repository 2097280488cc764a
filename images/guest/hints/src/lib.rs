//! Lets a program in a guest tell the hypervisor what a piece of its data is worth.
//!
//! `microvm --insight on` sees the system calls of a guest's programs, and gives each block of a
//! disk the [`Class`] of the file that it belongs to. A program that knows better says so in the
//! call itself, with two numbers in the argument registers that reads and writes leave unused:
//!
//! ```text
//!  register   rax      rdi         rsi      rdx      r10      r8      r9
//!  write      1        descriptor  address  bytes    -        MAGIC   hint
//!  pwrite64   18       descriptor  address  bytes    offset   MAGIC   hint
//!  openat     257      AT_FDCWD    path     flags    mode     MAGIC   hint
//! ```
//!
//! A [`Hint`] has a class in its lowest four bits, and above them what a program knows of whether
//! there is more data like its own: a disk that keeps alike data once need not look for what is
//! encrypted, and can be ready for what is copied. What is said at `openat` holds for the reads and
//! writes of that descriptor that say nothing.
//!
//! After the call the magic is gone, so that no other call has a hint by accident. The kernel does not
//! look at these registers. Without insight, on another hypervisor and on bare
//! metal, the calls are what they are without a hint. (Arulraj et al., "Improving Virtualized
//! Storage Performance with Sky", VEE 2017, have hints in this form.)
//!
//! ```
//! use insight_hints::{Class, Dedup, iwrite};
//!
//! let file = std::fs::File::options().write(true).open("/dev/null")?;
//! // An index that every query reads, however large its file is.
//! assert_eq!(iwrite(&file, b"index", Class::Metadata)?, 5);
//! // There is no second ciphertext like this one.
//! assert_eq!(iwrite(&file, b"ciphertext", Dedup::No)?, 10);
//! # std::io::Result::Ok(())
//! ```
//!
//! Without the feature `std`, what is there is [`raw`]: the same calls on the numbers of
//! descriptors. `include/insight_hints.h` has them for C.

#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("hints are in the registers of system calls of x86-64 Linux");

mod class;
mod hint;
pub mod raw;
#[cfg(feature = "std")]
mod wrappers;

pub use class::{Class, NoClass};
pub use hint::{Dedup, Hint};
#[cfg(feature = "std")]
pub use wrappers::{iopen, ipread, ipwrite, iread, iwrite};

/// Says that the next argument is a hint: `SKYHINT1` when read from the highest byte on.
pub const MAGIC: u64 = 0x534b_5948_494e_5431;
