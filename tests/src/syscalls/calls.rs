//! One system call, as the processor has it.
#![expect(unsafe_code, reason = "makes system calls")]

use std::arch::asm;

/// Makes a system call; returns what is in RAX after it.
///
/// # Safety
/// The kernel may do what the call with these arguments means.
pub(super) unsafe fn call(number: u64, arguments: [u64; 6]) -> i64 {
    let result: u64;
    // SAFETY: the kernel changes three registers, which are named, and what the caller allows.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result.cast_signed()
}
