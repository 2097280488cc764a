//! One instruction with every register and flag known before and after it.
#![expect(unsafe_code, reason = "sets all registers, the stack pointer included")]

use std::arch::naked_asm;
use std::mem::offset_of;

use anyhow::{Result, ensure};

use super::stack::Stack;
use crate::records::Numbers;

/// The general registers, but for the stack pointer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) rax: u64,
    pub(super) rbx: u64,
    pub(super) rcx: u64,
    pub(super) rdx: u64,
    pub(super) rsi: u64,
    pub(super) rdi: u64,
    pub(super) rbp: u64,
    pub(super) r8: u64,
    pub(super) r9: u64,
    pub(super) r10: u64,
    pub(super) r11: u64,
    pub(super) r12: u64,
    pub(super) r13: u64,
    pub(super) r14: u64,
    pub(super) r15: u64,
}

/// What the instruction is given and leaves.
#[repr(C)]
#[derive(Debug, Default)]
struct Frame {
    before: Registers,
    after: Registers,
    flags_before: u64,
    flags_after: u64,
    stack_before: u64,
    stack_after: u64,
    /// Where the caller's stack is meanwhile.
    callers_stack: u64,
    /// The address of the next instruction.
    next: u64,
}

/// The flags of arithmetic and the direction.
const FLAGS: u64 = 0b1100_1101_0101;

/// What is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// A system call.
    Syscall,
    /// AL goes to the port that DX names.
    Out,
}

impl Registers {
    /// All of them random.
    pub(super) fn random(numbers: &mut Numbers) -> Self {
        let mut draw = || numbers.draw();
        Self {
            rax: draw(),
            rbx: draw(),
            rcx: draw(),
            rdx: draw(),
            rsi: draw(),
            rdi: draw(),
            rbp: draw(),
            r8: draw(),
            r9: draw(),
            r10: draw(),
            r11: draw(),
            r12: draw(),
            r13: draw(),
            r14: draw(),
            r15: draw(),
        }
    }
}

/// Executes an instruction on a stack of its own; returns RAX after it. It is an error if any other
/// register, flag or byte of the stack changes that should not.
///
/// # Safety
/// What the instruction does with these registers is sound. Signals that the thread does not block
/// are handled on an alternate stack.
pub(super) unsafe fn execute(
    instruction: Instruction,
    registers: Registers,
    stack: &mut Stack,
) -> Result<u64> {
    let mut frame = Frame {
        before: registers,
        stack_before: stack.pointer(),
        ..Frame::default()
    };
    let probe = match instruction {
        Instruction::Syscall => probe_syscall,
        Instruction::Out => probe_out,
    };
    // SAFETY: the frame and the stack live until it returns; the caller answers for the rest.
    unsafe { probe(&raw mut frame) };
    frame.check(instruction)?;
    Ok(frame.after.rax)
}

impl Frame {
    fn check(&self, instruction: Instruction) -> Result<()> {
        let Self { before, after, .. } = self;
        let mut expected = *before;
        if instruction == Instruction::Syscall {
            expected.rax = after.rax;
            // The instruction itself changes two registers; with FRED it does not.
            let flags = after.r11 & FLAGS == self.flags_before & FLAGS;
            if flags && after.rcx == self.next {
                (expected.r11, expected.rcx) = (after.r11, after.rcx);
            }
        }
        ensure!(
            *after == expected,
            "registers changed: from {before:x?} to {after:x?}, the next instruction at {:x}",
            self.next
        );
        ensure!(
            self.stack_after == self.stack_before,
            "the stack pointer went from {:x} to {:x}",
            self.stack_before,
            self.stack_after
        );
        ensure!(
            self.flags_after & FLAGS == self.flags_before & FLAGS,
            "flags went from {:x} to {:x}",
            self.flags_before,
            self.flags_after
        );
        Ok(())
    }
}

/// A function that executes one instruction. The top word of the stack holds the address of the
/// frame meanwhile, so that every register is free; direction and carry are set, as no compiler
/// leaves them.
macro_rules! probe {
    ($name:ident, $instruction:literal) => {
        #[unsafe(naked)]
        unsafe extern "sysv64" fn $name(frame: *mut Frame) {
            naked_asm!(
                "push rbx; push rbp; push r12; push r13; push r14; push r15",
                "std",
                "stc",
                "pushfq",
                "pop qword ptr [rdi + {flags_before}]",
                "mov [rdi + {callers_stack}], rsp",
                "mov rsp, [rdi + {stack_before}]",
                "mov [rsp], rdi",
                "mov rax, [rdi + {before} + 0]; mov rbx, [rdi + {before} + 8]",
                "mov rcx, [rdi + {before} + 16]; mov rdx, [rdi + {before} + 24]",
                "mov rsi, [rdi + {before} + 32]; mov rbp, [rdi + {before} + 48]",
                "mov r8, [rdi + {before} + 56]; mov r9, [rdi + {before} + 64]",
                "mov r10, [rdi + {before} + 72]; mov r11, [rdi + {before} + 80]",
                "mov r12, [rdi + {before} + 88]; mov r13, [rdi + {before} + 96]",
                "mov r14, [rdi + {before} + 104]; mov r15, [rdi + {before} + 112]",
                "mov rdi, [rdi + {before} + 40]",
                $instruction,
                "2:",
                "xchg rax, [rsp]",
                "mov [rax + {after} + 8], rbx; mov [rax + {after} + 16], rcx",
                "mov [rax + {after} + 24], rdx; mov [rax + {after} + 32], rsi",
                "mov [rax + {after} + 40], rdi; mov [rax + {after} + 48], rbp",
                "mov [rax + {after} + 56], r8; mov [rax + {after} + 64], r9",
                "mov [rax + {after} + 72], r10; mov [rax + {after} + 80], r11",
                "mov [rax + {after} + 88], r12; mov [rax + {after} + 96], r13",
                "mov [rax + {after} + 104], r14; mov [rax + {after} + 112], r15",
                "mov rbx, [rsp]",
                "mov [rax + {after} + 0], rbx",
                "mov [rax + {stack_after}], rsp",
                "lea rbx, [rip + 2b]",
                "mov [rax + {next}], rbx",
                "mov rsp, [rax + {callers_stack}]",
                "pushfq",
                "pop qword ptr [rax + {flags_after}]",
                "cld",
                "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
                "ret",
                before = const offset_of!(Frame, before),
                after = const offset_of!(Frame, after),
                flags_before = const offset_of!(Frame, flags_before),
                flags_after = const offset_of!(Frame, flags_after),
                stack_before = const offset_of!(Frame, stack_before),
                stack_after = const offset_of!(Frame, stack_after),
                callers_stack = const offset_of!(Frame, callers_stack),
                next = const offset_of!(Frame, next),
            )
        }
    };
}

probe!(probe_syscall, "syscall");
probe!(probe_out, "out dx, al");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscalls::stack::Below;

    #[test]
    fn a_register_that_changes_is_noticed() {
        let before = Registers::random(&mut Numbers::new(7));
        let good = Frame {
            before,
            after: Registers {
                rax: 1,
                rcx: 2,
                r11: 0x202,
                ..before
            },
            flags_before: 0x202,
            flags_after: 0x202,
            next: 2,
            ..Frame::default()
        };
        good.check(Instruction::Syscall).unwrap();
        assert!(good.check(Instruction::Out).is_err());
        let changed = |change: fn(&mut Frame)| {
            let mut frame = Frame { ..good };
            change(&mut frame);
            frame.check(Instruction::Syscall).is_err()
        };
        assert!(changed(|frame| frame.after.r8 ^= 1));
        assert!(changed(|frame| frame.after.rbp ^= 1));
        assert!(changed(|frame| frame.after.rcx ^= 1));
        assert!(changed(|frame| frame.after.r11 ^= 1));
        assert!(changed(|frame| frame.flags_after ^= 0x400));
        assert!(changed(|frame| frame.stack_after ^= 8));
    }

    #[test]
    fn the_probe_sets_what_it_says_and_reads_what_is_left() {
        let (mut numbers, mut stack) = (Numbers::new(7), Stack::new(Below::Known).unwrap());
        stack.fill(&mut numbers).unwrap();
        let registers = Registers {
            rax: libc::SYS_getpid.cast_unsigned(),
            ..Registers::random(&mut numbers)
        };
        // SAFETY: the call only answers; the test's thread gets no signals.
        let pid = unsafe { execute(Instruction::Syscall, registers, &mut stack) };
        assert_eq!(pid.unwrap(), u64::from(std::process::id()));
        stack.check().unwrap();
    }
}
