//! What can be wrong with a kernel, an initrd, a command line or a machine.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::kernel::Compression;

/// Why a guest cannot be loaded. Each message is one line for the user: what, where, what to do.
#[derive(Debug, Error)]
pub enum Error {
    /// A file cannot be opened or read.
    #[error("{}: cannot {operation}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried, `read the initrd` for example.
        operation: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A directory, a pipe or a device in place of a file.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Neither a bzImage nor an ELF file.
    #[error("{}: not a Linux kernel; a bzImage (vmlinuz) or an ELF vmlinux is needed", path.display())]
    NotAKernel {
        /// The kernel.
        path: PathBuf,
    },
    /// A kernel for i386.
    #[error("{}: a 32-bit kernel; an x86-64 kernel is needed", path.display())]
    Kernel32Bit {
        /// The kernel.
        path: PathBuf,
    },
    /// An ELF kernel for another processor.
    #[error("{}: a kernel for another processor (ELF machine {machine}); an x86-64 kernel is needed", path.display())]
    OtherMachine {
        /// The kernel.
        path: PathBuf,
        /// ELF's `e_machine`.
        machine: u16,
    },
    /// A bzImage from before the boot protocol that is needed.
    #[error("{}: boot protocol {}.{:02} is too old; {needed}", path.display(), version >> 8, version & 0xff)]
    ProtocolTooOld {
        /// The kernel.
        path: PathBuf,
        /// The version, the major part in the upper byte.
        version: u16,
        /// What is needed, and why.
        needed: &'static str,
    },
    /// The file ends before the kernel does.
    #[error("{}: truncated kernel: it has {file_bytes} bytes and its {part} would end at byte {needed_bytes}", path.display())]
    Truncated {
        /// The kernel.
        path: PathBuf,
        /// The part that is cut off.
        part: &'static str,
        /// Where the part ends, in bytes from the start of the file.
        needed_bytes: u64,
        /// The length of the file.
        file_bytes: u64,
    },
    /// The compressed kernel in a bzImage does not decompress.
    #[error("{}: corrupt kernel payload ({compression}): {source}", path.display())]
    CorruptPayload {
        /// The kernel.
        path: PathBuf,
        /// How the payload is compressed.
        compression: Compression,
        /// What the decoder says.
        source: io::Error,
    },
    /// A payload in a format of which nothing is known.
    #[error("{}: the kernel's payload has an unknown compression (it begins {magic:02x?})", path.display())]
    UnknownCompression {
        /// The kernel.
        path: PathBuf,
        /// The payload's first bytes.
        magic: [u8; 4],
    },
    /// A kernel whose headers contradict themselves.
    #[error("{}: malformed kernel: {reason}", path.display())]
    Malformed {
        /// The kernel.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A kernel larger than the guest's memory.
    #[error(
        "{}: the kernel needs memory up to {} MiB and the guest has {} MiB below 4 GiB; \
         give the guest more memory",
        path.display(), needed_bytes.div_ceil(1 << 20), low_ram_bytes >> 20
    )]
    KernelTooLarge {
        /// The kernel.
        path: PathBuf,
        /// The end of the kernel in guest memory.
        needed_bytes: u64,
        /// The end of the guest's RAM below 4 GiB.
        low_ram_bytes: u64,
    },
    /// An initrd larger than the memory behind the kernel.
    #[error(
        "{}: the initrd has {} MiB and there is room for {} MiB behind the kernel; \
         give the guest more memory",
        path.display(), initrd_bytes.div_ceil(1 << 20), room_bytes >> 20
    )]
    InitrdTooLarge {
        /// The initrd.
        path: PathBuf,
        /// Its length.
        initrd_bytes: u64,
        /// The room there is.
        room_bytes: u64,
    },
    /// A command line longer than the kernel takes.
    #[error(
        "the kernel's command line has {bytes} bytes and this kernel takes {bytes_max}; shorten it"
    )]
    CmdlineTooLong {
        /// The length without the terminating zero.
        bytes: usize,
        /// The longest that the kernel takes.
        bytes_max: usize,
    },
    /// A zero byte would end the command line early.
    #[error("the kernel's command line contains a zero byte at offset {offset}; remove it")]
    CmdlineZero {
        /// Where.
        offset: usize,
    },
    /// A machine with more devices than there is room to describe.
    #[error("the ACPI tables do not fit in {room_bytes} bytes; attach fewer devices")]
    AcpiTooLarge {
        /// The room there is.
        room_bytes: u64,
    },
    /// A machine with hardly any memory.
    #[error("the guest has {} KiB of memory and at least 2 MiB are needed", low_ram_bytes >> 10)]
    MemoryTooSmall {
        /// The end of the guest's RAM below 4 GiB.
        low_ram_bytes: u64,
    },
    /// Guest memory does not take what belongs there.
    #[error("cannot write the {what} to guest memory: {source}")]
    GuestMemory {
        /// What was written.
        what: &'static str,
        /// The cause.
        source: vm_memory::GuestMemoryError,
    },
}
