//! Physical memory: the registers of devices, and the buffers that devices reach by DMA.
//!
//! ```text
//!  1 MiB   the guest's code and stack
//!  2 MiB   QUEUE: rings and indirect tables
//!  3 MiB   HEADER: request headers and status bytes
//!  4 MiB   DATA: up to the end of memory
//! ```
//!
//! The loader maps the first 4 GiB one to one, so an address here is a physical one.
#![expect(
    unsafe_code,
    reason = "devices and their buffers are reached by address"
)]

use core::arch::asm;
use core::ptr::{read_volatile, with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::{Ordering, fence};

/// Where rings lie.
pub const QUEUE: u64 = 0x20_0000;
/// Where request headers and status bytes lie.
pub const HEADER: u64 = 0x30_0000;
/// Where data lies.
pub const DATA: u64 = 0x40_0000;

/// A number that a register or a field in memory holds, little-endian as the machine is.
pub trait Word: Copy {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

/// Reads the register or field at `address`, with one access of its width.
pub fn read<T: Word>(address: u64) -> T {
    // SAFETY: the guest owns all memory above its image, every address below 4 GiB is mapped, and
    // any bit pattern is a number.
    unsafe { read_volatile(with_exposed_provenance::<T>(pointer(address))) }
}

/// Writes the register or field at `address`, with one access of its width.
pub fn write<T: Word>(address: u64, value: T) {
    // SAFETY: as for `read`; callers write to registers and to the areas drawn above only.
    unsafe { with_exposed_provenance_mut::<T>(pointer(address)).write_volatile(value) }
}

/// Keeps what a device may look at from being reordered (virtio 1.2 section 2.7.13).
pub fn barrier() {
    fence(Ordering::SeqCst);
}

/// The processor's time stamp, in cycles.
pub fn cycles() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading the time stamp counter touches nothing but the two registers.
    unsafe {
        asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

fn pointer(address: u64) -> usize {
    // Lossless: the guest is 64-bit.
    usize::try_from(address).unwrap_or(usize::MAX)
}
