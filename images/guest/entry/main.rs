//! The kernel that the test guest is: the entry point round the `baremetal-guest` library.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry point is called by the loader, with addresses in registers")]

use core::arch::global_asm;
use core::panic::PanicInfo;

use baremetal_guest::command_line::CommandLine;
use baremetal_guest::{fail, memory, power, run};

// The 64-bit entry (Linux Documentation/arch/x86/boot.rst, "64-bit boot protocol"): RSI holds the
// address of the zero page. Of SSE, moves are used, which need CR4.OSFXSR.
global_asm!(
    ".section .text.entry, \"ax\"",
    ".globl _start",
    "_start:",
    "lea rsp, [rip + stack_end]",
    "mov rax, cr4",
    "or rax, 0x600",
    "mov cr4, rax",
    "mov rdi, rsi",
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    ".section .bss.stack, \"aw\", @nobits",
    ".balign 16",
    ".skip 0x10000",
    "stack_end:",
    start = sym start,
);

/// Where the zero page holds the address of the command line (`cmd_line_ptr`), and the longest
/// command line that is looked at.
const COMMAND_LINE_POINTER: u64 = 0x228;
const COMMAND_LINE_BYTES_MAX: u64 = 2048;

extern "C" fn start(zero_page: u64) -> ! {
    let address = u64::from(memory::read::<u32>(zero_page + COMMAND_LINE_POINTER));
    let mut len_bytes = 0;
    while len_bytes < COMMAND_LINE_BYTES_MAX && memory::read::<u8>(address + len_bytes) != 0 {
        len_bytes += 1;
    }
    // SAFETY: the loader put the command line there, and nothing else is ever written there.
    let text = unsafe { core::slice::from_raw_parts(address as *const u8, len_bytes as usize) };
    run(&CommandLine::new(text))
}

#[panic_handler]
fn panicked(_: &PanicInfo) -> ! {
    fail("the test guest panicked");
    power::off()
}
