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

/// Fills `bytes` from `port`, one after the other, by a single instruction.
pub fn read_string(port: u16, bytes: &mut [u8]) {
    // SAFETY: the instruction writes as many bytes as the slice has, and the direction flag is
    // clear, as the calling convention has it.
    unsafe {
        asm!(
            "rep insb",
            in("dx") port,
            inout("rdi") bytes.as_mut_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(nostack, preserves_flags)
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
