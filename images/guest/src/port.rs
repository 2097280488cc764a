//! Port I/O.
#![expect(unsafe_code, reason = "IN and OUT have no safe form")]

use core::arch::asm;

/// Reads a byte from `port`.
pub fn read(port: u16) -> u8 {
    let value;
    // SAFETY: the guest runs alone on an emulated machine; reading a port has no effect on its memory.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes `bytes` to `port`, one after the other, by a single instruction.
pub fn write_string(port: u16, bytes: &[u8]) {
    // SAFETY: the instruction reads as many bytes as the slice has, and changes no memory.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Writes a byte to `port`.
pub fn write(port: u16, value: u8) {
    // SAFETY: the guest runs alone on an emulated machine; none of its devices does DMA by port.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}
