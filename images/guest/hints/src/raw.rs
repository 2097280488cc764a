//! The calls with a hint, on the numbers of descriptors, without a standard library.
//!
//! All are what the call of their name without the `i` is: they may be interrupted, and may do a
//! part.
#![expect(unsafe_code, reason = "makes system calls")]

use core::arch::asm;
use core::ffi::{CStr, c_int};

use crate::{Hint, MAGIC};

/// What the kernel answered instead: a number of `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub c_int);

/// The result of a call.
pub type Result<T> = core::result::Result<T, Errno>;

const READ: u64 = 0;
const WRITE: u64 = 1;
const PREAD: u64 = 17;
const PWRITE: u64 = 18;
const OPENAT: u64 = 257;

/// Relative to the working directory.
const AT_FDCWD: c_int = -100;
/// The greatest number of `errno`.
const ERRNO_MAX: u64 = 4095;

/// Writes `buf` at the descriptor's offset; returns how many bytes were written.
///
/// # Safety
/// `fd` is an open descriptor that the caller may write to.
pub unsafe fn iwrite(fd: c_int, buf: &[u8], hint: impl Into<Hint>) -> Result<usize> {
    let arguments = [word(fd), buf.as_ptr() as u64, buf.len() as u64, 0];
    // SAFETY: the kernel reads no more than the buffer; the caller answers for the descriptor.
    unsafe { call(WRITE, arguments, hint.into()) }
}

/// Writes `buf` at `offset`; returns how many bytes were written.
///
/// # Safety
/// `fd` is an open descriptor that the caller may write to.
pub unsafe fn ipwrite(fd: c_int, buf: &[u8], offset: u64, hint: impl Into<Hint>) -> Result<usize> {
    let arguments = [word(fd), buf.as_ptr() as u64, buf.len() as u64, offset];
    // SAFETY: the kernel reads no more than the buffer; the caller answers for the descriptor.
    unsafe { call(PWRITE, arguments, hint.into()) }
}

/// Reads into `buf` from the descriptor's offset; returns how many bytes were read.
///
/// # Safety
/// `fd` is an open descriptor that the caller may read from.
pub unsafe fn iread(fd: c_int, buf: &mut [u8], hint: impl Into<Hint>) -> Result<usize> {
    let arguments = [word(fd), buf.as_mut_ptr() as u64, buf.len() as u64, 0];
    // SAFETY: the kernel writes no more than the buffer; the caller answers for the descriptor.
    unsafe { call(READ, arguments, hint.into()) }
}

/// Reads into `buf` from `offset`; returns how many bytes were read.
///
/// # Safety
/// `fd` is an open descriptor that the caller may read from.
pub unsafe fn ipread(
    fd: c_int,
    buf: &mut [u8],
    offset: u64,
    hint: impl Into<Hint>,
) -> Result<usize> {
    let arguments = [word(fd), buf.as_mut_ptr() as u64, buf.len() as u64, offset];
    // SAFETY: the kernel writes no more than the buffer; the caller answers for the descriptor.
    unsafe { call(PREAD, arguments, hint.into()) }
}

/// Opens the file `path`, with the `flags` and `mode` of `open(2)`; returns the descriptor, whose
/// data is as this hint says unless a call says another.
pub fn iopen(path: &CStr, flags: c_int, mode: u32, hint: impl Into<Hint>) -> Result<c_int> {
    let arguments = [
        word(AT_FDCWD),
        path.as_ptr() as u64,
        word(flags),
        u64::from(mode),
    ];
    // SAFETY: the kernel reads the path up to its end, and nothing else.
    let opened = unsafe { call(OPENAT, arguments, hint.into()) };
    // A descriptor is an int for the kernel too.
    opened.map(|fd| c_int::try_from(fd).unwrap_or(c_int::MAX))
}

/// An int as the register that carries it.
fn word(value: c_int) -> u64 {
    i64::from(value).cast_unsigned()
}

/// # Safety
/// The kernel may do what the call with these arguments means.
unsafe fn call(number: u64, arguments: [u64; 4], hint: Hint) -> Result<usize> {
    let result: u64;
    // SAFETY: the registers that change are named, and what the caller allows.
    unsafe {
        asm!(
            "syscall",
            // The kernel leaves it, and a call without a hint may find it there.
            "xor r8d, r8d",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            inlateout("r8") MAGIC => _,
            in("r9") hint.word(),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    let errno = result.wrapping_neg();
    if (1..=ERRNO_MAX).contains(&errno) {
        return Err(Errno(c_int::try_from(errno).unwrap_or(c_int::MAX)));
    }
    // A size of this machine.
    usize::try_from(result).map_err(|_| Errno(c_int::MAX))
}
