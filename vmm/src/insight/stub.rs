//! The code that stands before the guest kernel's entry for system calls.
//!
//! SYSCALL (AMD APM volume 2 section 6.1.1) has put the return address into RCX and the flags into
//! R11, masked the interrupts, and jumped to LSTAR with the user's stack and page tables. The stub
//! must leave everything but the flags as it found it. It decides by itself what is of no interest,
//! in about 1.5 ns. What needs no answer (a read of a file that is known, a close) it notes, for
//! whoever looks next; for the rest it goes to this program by an `OUT`. Then it goes to the kernel.
//!
//! Each vCPU has a copy of its own, one [`STRIDE`] behind the other, with its own data
//! [`DATA_DISTANCE`] further on. So all copies are the same but for the jump to the real entry, and
//! the way to what they share, which is [`SHARED`] behind the data of the first.
#![expect(
    unsafe_code,
    reason = "reads the assembled code, which is data to this program"
)]

use std::arch::global_asm;

/// The port of the stub's `OUT`. Nothing answers there but this program, and only to the stub.
pub(crate) const PORT: u16 = 0xe6;
/// From one vCPU's copy to the next, code and data alike, in bytes.
pub(super) const STRIDE: u64 = 0x1000;
/// From a copy of the code to its data, in bytes: a large page.
pub(super) const DATA_DISTANCE: u64 = 0x20_0000;
/// From the data of the first vCPU to what all share, in bytes: there is room for 255 before it.
pub(super) const SHARED: u64 = 0x10_0000;
const _: () = assert!(255 * STRIDE <= SHARED);

/// Where things are in a copy's data, in bytes.
pub(super) mod data {
    /// RAX and RBX as they were at the entry.
    pub(in super::super) const RAX: usize = 0x00;
    pub(in super::super) const RBX: usize = 0x08;
    /// What R8 is when an insight-call comes back.
    pub(in super::super) const NONCE: usize = 0x10;
    /// What R8 is where an application says what its data is.
    pub(in super::super) const MAGIC: usize = 0x18;
    /// CR3 at the last exit.
    pub(in super::super) const CR3: usize = 0x20;
    /// How many calls were noted, and how many of those were taken, modulo 2^32.
    pub(in super::super) const NOTED: usize = 0x28;
    pub(in super::super) const TAKEN: usize = 0x2c;
    /// A bit for each system call that leads to an exit whoever makes it.
    pub(in super::super) const ALWAYS: usize = 0x40;
    /// A bit for each system call that is looked at where its process is watched.
    pub(in super::super) const WATCHED_CALLS: usize = 0x80;
    /// Of those, the ones that only read from a descriptor, or only write to it.
    pub(in super::super) const READS: usize = 0xc0;
    pub(in super::super) const WRITES: usize = 0x100;
    /// Of those, the ones after which a descriptor is nothing.
    pub(in super::super) const CLOSES: usize = 0x140;
    /// The notes, the oldest of which is overwritten when it was taken.
    pub(in super::super) const NOTES: usize = 0x400;
}

/// Where things are in what all copies share, in bytes.
pub(super) mod shared {
    /// The number of the next note.
    pub(in super::super) const SERIAL: usize = 0x00;
    /// A bit for each process that is watched, by [`super::process_bit`].
    pub(in super::super) const PROCESSES: usize = 0x1000;
    /// For each of these, two words with a bit for each of its first descriptors: whether reading
    /// from it is only noted, and whether writing to it is.
    pub(in super::super) const QUIET: usize = 0x2000;
    pub(in super::super) const BYTES: usize = QUIET + super::QUIET_PROCESSES * super::QUIET_BYTES;
}

/// Where things are in a note, in bytes.
pub(super) mod note {
    /// RAX, RDI, RSI, RDX, R10 and CR3.
    pub(in super::super) const CALL: usize = 0x00;
    pub(in super::super) const SERIAL: usize = 0x30;
    pub(in super::super) const BYTES: usize = 0x40;
}

/// System calls that have a bit; numbers beyond count as what they are modulo this.
pub(super) const CALL_BITS: u64 = 512;
/// Bits for processes.
pub(super) const PROCESS_BITS: u64 = 0x8000;
/// Descriptors of a process that have bits.
pub(super) const QUIET_BITS: u64 = 64;
/// What a process has of these, and how many processes there are room for.
pub(super) const QUIET_BYTES: usize = 16;
const QUIET_PROCESSES: usize = 0x8000;
const _: () = assert!(QUIET_PROCESSES as u64 == PROCESS_BITS);
/// Notes of a vCPU that wait to be taken.
pub(super) const NOTES_MAX: u32 = 32;
const _: () = assert!((data::NOTES + NOTES_MAX as usize * note::BYTES) as u64 <= STRIDE);
/// The low bits of CR3 that name no process: the PCID.
const CR3_SHIFT: u32 = 12;
/// Spreads the numbers of page tables over the bits for processes: 2^32 by the golden ratio (Knuth,
/// The Art of Computer Programming, volume 3 section 6.4). Page tables are one page, often next to
/// each other, or two with page-table isolation (Linux's `pgd_allocation_order`).
const PROCESS_HASH: u32 = 0x9e37_79b1;
const PROCESS_SHIFT: u32 = 32 - PROCESS_BITS.ilog2();

global_asm!(
    ".pushsection .rodata.microvm_insight_stub, \"a\"",
    ".irp label, stub, shared, serial, out, target, stub_end",
    ".globl microvm_insight_\\label",
    ".hidden microvm_insight_\\label",
    ".endr",
    ".balign 16",
    ".set data, microvm_insight_stub + {distance}",
    "microvm_insight_stub:",
    // Where SYSCALL may lead, if the kernel has indirect branches tracked (Intel SDM volume 1 chapter
    // 18); else nothing.
    "    endbr64",
    "    mov [rip + data + {rax}], rax",
    // An insight-call that comes back, whoever made it and on whichever processor.
    "    cmp r8, [rip + data + {nonce}]",
    "    je 7f",
    "    cmp r8, [rip + data + {magic}]",
    "    je 7f",
    // A mask, not a comparison that could be mispredicted.
    "    and eax, {call_mask}",
    "    bt [rip + data + {always}], rax",
    "    jc 7f",
    "    bt [rip + data + {watched_calls}], rax",
    "    jnc 9f",
    "    mov [rip + data + {rbx}], rbx",
    // lea rbx, [rip + what all share]
    "    .byte 0x48, 0x8d, 0x1d",
    "microvm_insight_shared:",
    "    .long 0",
    "    mov rax, cr3",
    "    shr rax, {cr3_shift}",
    "    imul eax, eax, {process_hash}",
    "    shr eax, {process_shift}",
    "    bt [rbx + {processes}], rax",
    "    jnc 8f",
    // Whether the descriptor, if it is one, is quiet.
    "    cmp rdi, {quiet_bits} - 1",
    "    ja 6f",
    "    shl eax, {quiet_shift}",
    "    lea rbx, [rbx + rax + {quiet}]",
    "    mov rax, [rip + data + {rax}]",
    "    and eax, {call_mask}",
    "    bt [rip + data + {reads}], rax",
    "    jc 3f",
    "    bt [rip + data + {writes}], rax",
    "    jc 2f",
    "    bt [rip + data + {closes}], rax",
    "    jnc 6f",
    // Whatever it is next has to be met.
    "    mov eax, edi",
    "    and eax, {quiet_bits} - 1",
    "    lock btr qword ptr [rbx], rax",
    "    lock btr qword ptr [rbx + 8], rax",
    "    jmp 4f",
    "2:  add rbx, 8",
    // Of a register, 64 bits are looked at. Of memory it would be the kernel's whole, by a processor
    // that takes the descriptor for a small one before it has compared it.
    "3:  mov rbx, [rbx]",
    "    bt rbx, rdi",
    "    jnc 6f",
    // A note, if there is room. What it says is there before it is counted.
    "4:  mov eax, [rip + data + {noted}]",
    "    mov ebx, eax",
    "    sub ebx, [rip + data + {taken}]",
    "    cmp ebx, {notes_max}",
    "    jae 6f",
    "    and eax, {notes_max} - 1",
    "    shl eax, {note_shift}",
    "    lea rbx, [rip + data + {notes}]",
    "    add rbx, rax",
    "    mov [rbx + 8], rdi",
    "    mov [rbx + 16], rsi",
    "    mov [rbx + 24], rdx",
    "    mov [rbx + 32], r10",
    "    mov rax, [rip + data + {rax}]",
    "    mov [rbx], rax",
    "    mov rax, cr3",
    "    mov [rbx + 40], rax",
    "    mov eax, 1",
    // lock xadd [rip + the serial number], rax
    "    .byte 0xf0, 0x48, 0x0f, 0xc1, 0x05",
    "microvm_insight_serial:",
    "    .long 0",
    "    mov [rbx + {note_serial}], rax",
    "    inc dword ptr [rip + data + {noted}]",
    "    jmp 8f",
    // To this program.
    "6:  mov rbx, [rip + data + {rbx}]",
    "7:  mov rax, cr3",
    "    mov [rip + data + {cr3}], rax",
    "    mov rax, [rip + data + {rax}]",
    "microvm_insight_out:",
    "    out {port}, al",
    "    jmp .Lmicrovm_insight_entry",
    "8:  mov rbx, [rip + data + {rbx}]",
    "9:  mov rax, [rip + data + {rax}]",
    // To the real entry. A direct jump: nothing to predict, so nothing to protect.
    ".Lmicrovm_insight_entry:",
    "    .byte 0xe9",
    "microvm_insight_target:",
    "    .long 0",
    "microvm_insight_stub_end:",
    ".popsection",
    distance = const DATA_DISTANCE,
    rax = const data::RAX,
    rbx = const data::RBX,
    cr3 = const data::CR3,
    nonce = const data::NONCE,
    magic = const data::MAGIC,
    noted = const data::NOTED,
    taken = const data::TAKEN,
    always = const data::ALWAYS,
    watched_calls = const data::WATCHED_CALLS,
    reads = const data::READS,
    writes = const data::WRITES,
    closes = const data::CLOSES,
    notes = const data::NOTES,
    notes_max = const NOTES_MAX,
    note_shift = const note::BYTES.ilog2(),
    note_serial = const note::SERIAL,
    processes = const shared::PROCESSES,
    quiet = const shared::QUIET,
    quiet_bits = const QUIET_BITS,
    quiet_shift = const QUIET_BYTES.ilog2(),
    call_mask = const CALL_BITS - 1,
    process_hash = const PROCESS_HASH.cast_signed(),
    process_shift = const PROCESS_SHIFT,
    cr3_shift = const CR3_SHIFT,
    port = const PORT,
);

unsafe extern "C" {
    static microvm_insight_stub: u8;
    static microvm_insight_shared: u8;
    static microvm_insight_serial: u8;
    static microvm_insight_out: u8;
    static microvm_insight_target: u8;
    static microvm_insight_stub_end: u8;
}

/// The code as it was assembled, with ways that lead nowhere yet.
fn template() -> &'static [u8] {
    let start = &raw const microvm_insight_stub;
    let len = offset_of(&raw const microvm_insight_stub_end);
    // SAFETY: the two labels bound one stretch of read-only data of this program.
    unsafe { std::slice::from_raw_parts(start, len) }
}

fn offset_of(label: *const u8) -> usize {
    label.addr() - (&raw const microvm_insight_stub).addr()
}

/// The code of the copy of vCPU `cpu`, where that of the first is at the guest address `window`. It
/// goes on to `entry`; none if that is further away than a jump goes.
pub(super) fn assemble(window: u64, cpu: u8, entry: u64) -> Option<Vec<u8>> {
    let mut code = template().to_vec();
    let shared = window.wrapping_add(DATA_DISTANCE + SHARED);
    for (label, target) in [
        (&raw const microvm_insight_shared, shared),
        (
            &raw const microvm_insight_serial,
            shared.wrapping_add(shared::SERIAL as u64),
        ),
        (&raw const microvm_insight_target, entry),
    ] {
        let at = offset_of(label);
        let after = address(window, cpu).wrapping_add(at as u64 + 4);
        let distance = i32::try_from(target.wrapping_sub(after).cast_signed()).ok()?;
        code[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }
    Some(code)
}

/// Where the copy of vCPU `cpu` is, if that of the first is at `window`.
pub(super) fn address(window: u64, cpu: u8) -> u64 {
    window.wrapping_add(u64::from(cpu) * STRIDE)
}

/// Where the `OUT` is in a copy, in bytes.
pub(super) fn out_offset() -> u64 {
    offset_of(&raw const microvm_insight_out) as u64
}

/// The bit of a process, by its page tables.
#[expect(clippy::cast_possible_truncation, reason = "as the stub does")]
pub(super) fn process_bit(cr3: u64) -> u64 {
    let page = (cr3 >> CR3_SHIFT) as u32;
    (page.wrapping_mul(PROCESS_HASH) >> PROCESS_SHIFT).into()
}

#[cfg(test)]
mod tests;
