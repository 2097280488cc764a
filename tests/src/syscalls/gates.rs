//! Ways around the entry of system calls that is watched, and what shows that it is.
#![expect(unsafe_code, reason = "calls by interrupt, writes to ports")]

use std::arch::asm;
use std::fs::{self, File};
use std::io::Error;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::ptr;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::{read, write};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::pipe::pipe;
use rustix::process::{getpid, getppid};

use super::child;
use super::probe::{Instruction, Registers, execute};
use super::stack::{Below, Stack};
use crate::records::Numbers;

/// The number of `write` where it is called by interrupt.
const WRITE_32: u32 = 4;
const TEXT: &[u8] = b"by interrupt";
/// The model-specific register that holds where SYSCALL goes.
const LSTAR: u64 = 0xc000_0082;
/// The kernel's name of that place.
const ENTRY: &str = "entry_SYSCALL_64";
/// How often the port is written.
const ATTACKS: u32 = 1000;

/// Writes by interrupt 0x80, as programs of 32 bits do.
pub(super) fn int80() -> Result<String> {
    let (end, start) = pipe()?;
    let address = low_copy(TEXT)?;
    let fd = start.as_raw_fd().unsigned_abs();
    let bytes = u32::try_from(TEXT.len())?;
    let child = child::fork(|| {
        // SAFETY: the text is there, and is only read.
        let written = unsafe { call_32(WRITE_32, [fd, address, bytes]) };
        u8::from(written != bytes)
    })?;
    child::expect(child, 0)
        .context("a call by interrupt: does this kernel know 32-bit programs?")?;
    let mut found = [0; TEXT.len()];
    ensure!(
        read(&end, &mut found)? == TEXT.len() && found == TEXT,
        "another text"
    );
    Ok("int80 calls=1".to_owned())
}

/// A copy below 4 GiB, which stays.
fn low_copy(text: &[u8]) -> Result<u32> {
    let flags = MapFlags::PRIVATE | MapFlags::from_bits_retain(libc::MAP_32BIT.unsigned_abs());
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping harms nobody.
    let memory = unsafe { mmap_anonymous(ptr::null_mut(), text.len(), protection, flags) };
    let memory = memory.context("mmap")?.cast::<u8>();
    // SAFETY: the mapping is at least as long, and nobody else's.
    unsafe { ptr::copy_nonoverlapping(text.as_ptr(), memory, text.len()) };
    Ok(u32::try_from(memory as usize)?)
}

/// # Safety
/// The kernel may do what the call with these arguments means.
unsafe fn call_32(number: u32, [first, second, third]: [u32; 3]) -> u32 {
    let result: u32;
    // SAFETY: what the kernel changes is named, or put back.
    unsafe {
        asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) u64::from(first) => _,
            inlateout("eax") number => result,
            in("ecx") second,
            in("edx") third,
            // Older kernels clear these.
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
            options(nostack),
        );
    }
    result
}

/// Reads where SYSCALL goes, which must be where the kernel has its entry.
pub(super) fn read_lstar() -> Result<String> {
    const DEVICE: &str = "/dev/cpu/0/msr";
    let device = File::open(DEVICE).with_context(|| format!("{DEVICE}: open"))?;
    let mut value = [0; 8];
    let count = device.read_at(&mut value, LSTAR).context("rdmsr")?;
    ensure!(count == value.len(), "rdmsr: {count} bytes");
    let lstar = u64::from_le_bytes(value);
    let symbols = fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms")?;
    let line = symbols
        .lines()
        .find(|line| line.ends_with(&format!(" {ENTRY}")));
    let address = line.and_then(|line| line.split(' ').next());
    let address = address.with_context(|| format!("/proc/kallsyms: no {ENTRY}"))?;
    match u64::from_str_radix(address, 16)? {
        // Who may read the register may mostly see addresses too.
        0 => bail!("/proc/kallsyms: addresses are hidden"),
        entry => ensure!(
            lstar == entry,
            "LSTAR is {lstar:#x}, and {ENTRY} at {entry:#x}"
        ),
    }
    Ok(format!("read-lstar lstar={lstar:#x}"))
}

/// Writes to a port from user mode, with registers as a hypervisor's own code might have them. That
/// changes no register and no memory, and the calls that follow do what they should.
pub(super) fn port_attack(port: u16) -> Result<String> {
    // SAFETY: what the port does is up to who names it.
    let allowed = unsafe { libc::ioperm(port.into(), 1, 1) };
    ensure!(allowed == 0, "ioperm {port:#x}: {}", Error::last_os_error());
    let null = File::options().write(true).open("/dev/null")?;
    let (process, parent) = (getpid(), getppid());
    let (mut numbers, mut stack) = (Numbers::new(port.into()), Stack::new(Below::Known)?);
    for number in 0..ATTACKS {
        stack.fill(&mut numbers)?;
        let registers = attack(port, &null, &mut numbers, &stack);
        // SAFETY: the port was allowed; no signals are expected.
        unsafe { execute(Instruction::Out, registers, &mut stack) }
            .and_then(|_| stack.check())
            .with_context(|| format!("attack {number}: {registers:x?}"))?;
        ensure!(
            getpid() == process && getppid() == parent && write(&null, b"after") == Ok(5),
            "attack {number}: a call after it had a wrong result"
        );
    }
    Ok(format!("port-attack port={port:#x} attacks={ATTACKS}"))
}

/// Registers as after SYSCALL: the number of a call, its arguments, where it returns to, flags.
fn attack(port: u16, null: &File, numbers: &mut Numbers, stack: &Stack) -> Registers {
    let calls = [
        libc::SYS_write,
        libc::SYS_read,
        libc::SYS_close,
        libc::SYS_execve,
        libc::SYS_exit_group,
    ];
    let call = calls[numbers.size(0, calls.len())];
    Registers {
        rax: call.cast_unsigned(),
        rdi: null.as_raw_fd().unsigned_abs().into(),
        rsi: stack.pointer(),
        rdx: port.into(),
        rcx: port_attack as *const () as u64,
        r11: 0x246,
        // Random as the others: what a hypervisor may tell its own calls by.
        ..Registers::random(numbers)
    }
}
