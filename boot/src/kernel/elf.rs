//! ELF executables (System V ABI, "Object Files" and "Program Loading"): a vmlinux, on its own or
//! out of a bzImage.

use std::io;
use std::mem::size_of;
use std::ops::Range;

use linux_loader::elf::{
    EI_CLASS, EI_DATA, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_DYN, ET_EXEC,
    Elf64_Ehdr, Elf64_Phdr, PT_LOAD,
};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::KernelFile;
use super::payload::Compression;
use super::source::Source;
use crate::Error;
use crate::layout::KERNEL_MIN;

/// More program headers than any kernel has: Linux has five.
const PROGRAM_HEADERS_MAX: u16 = 64;

/// A part of the kernel and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The physical address.
    pub(super) address: u64,
    /// The bytes that the file holds.
    pub(super) file_bytes: u64,
    /// The bytes in memory: those of the file, then zeroes.
    pub(super) memory_bytes: u64,
}

impl Segment {
    /// Whether guest memory below `low_ram_end` takes the segment; if not, where it ends.
    pub(super) fn check_fits(&self, low_ram_end: u64) -> Result<(), u64> {
        let end = self.address.saturating_add(self.memory_bytes);
        if end > low_ram_end { Err(end) } else { Ok(()) }
    }

    /// The guest memory that the file's bytes go to. The segment must fit.
    pub(super) fn target<'a>(
        &self,
        memory: &'a GuestMemoryMmap,
    ) -> io::Result<VolatileSlice<'a, ()>> {
        let len = usize::try_from(self.file_bytes).map_err(io::Error::other)?;
        memory
            .get_slice(GuestAddress(self.address), len)
            .map_err(io::Error::other)
    }
}

/// An executable in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Executable {
    /// The physical address of the entry point.
    pub(super) entry: u64,
    /// The segments, of which there is at least one.
    pub(super) segments: Vec<Segment>,
}

impl Executable {
    /// The guest memory from the first segment's start to the last one's end.
    pub(super) fn span(&self) -> Range<u64> {
        let start = self.segments.iter().map(|segment| segment.address).min();
        let end = self
            .segments
            .iter()
            .map(|segment| segment.address + segment.memory_bytes)
            .max();
        start.unwrap_or(0)..end.unwrap_or(0)
    }
}

/// What is wrong with an executable, before anybody says which file it is in.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes cannot be read.
    Io(io::Error),
    /// Not an ELF file.
    NotElf,
    /// A 32-bit executable.
    Class32,
    /// An executable for another processor.
    OtherMachine(u16),
    /// Headers that contradict themselves.
    Malformed(&'static str),
    /// `part` ends at `needed_bytes`, behind the file's end.
    Truncated {
        part: &'static str,
        needed_bytes: u64,
    },
    /// The executable ends at `needed_bytes` of guest memory, which has less.
    DoesNotFit { needed_bytes: u64 },
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Fault {
    /// The error for an executable that is the file `kernel`.
    pub(super) fn in_file(self, kernel: &KernelFile<'_>, low_ram_bytes: u64) -> Error {
        let path = kernel.path.to_owned();
        match self {
            Self::Io(source) => Error::File {
                path,
                operation: "read the kernel",
                source,
            },
            Self::NotElf => Error::NotAKernel { path },
            Self::Class32 => Error::Kernel32Bit { path },
            Self::OtherMachine(machine) => Error::OtherMachine { path, machine },
            Self::Malformed(reason) => Error::Malformed { path, reason },
            Self::Truncated { part, needed_bytes } => Error::Truncated {
                path,
                part,
                needed_bytes,
                file_bytes: kernel.file_bytes(),
            },
            Self::DoesNotFit { needed_bytes } => Error::KernelTooLarge {
                path,
                needed_bytes,
                low_ram_bytes,
            },
        }
    }

    /// The error for an executable that the bzImage `kernel` has as its payload.
    pub(super) fn in_payload(
        self,
        kernel: &KernelFile<'_>,
        compression: Compression,
        low_ram_bytes: u64,
    ) -> Error {
        let source = match self {
            Self::Io(source) => source,
            Self::NotElf => io::Error::other("it does not hold an ELF kernel"),
            Self::Truncated { part, .. } => {
                io::Error::other(format!("it ends before the end of the kernel's {part}"))
            }
            other => return other.in_file(kernel, low_ram_bytes),
        };
        Error::CorruptPayload {
            path: kernel.path.to_owned(),
            compression,
            source,
        }
    }
}

/// Loads the executable in `source` to the physical addresses that it names, below `low_ram_end`.
/// Memory that no file bytes go to must be zero already.
pub(super) fn load(
    memory: &GuestMemoryMmap,
    source: &mut impl Source,
    low_ram_end: u64,
) -> Result<Executable, Fault> {
    let header = file_header(source)?;
    let headers = program_headers(source, &header)?;
    for header in &headers {
        check(header, source.len_bytes(), low_ram_end)?;
    }
    check_apart(&headers)?;
    let entry = physical_entry(header.e_entry, &headers)?;
    let mut segments = Vec::with_capacity(headers.len());
    for header in &headers {
        let segment = Segment {
            address: header.p_paddr,
            file_bytes: header.p_filesz,
            memory_bytes: header.p_memsz,
        };
        if segment.file_bytes > 0 {
            source.skip_to(header.p_offset)?;
            source.fill(&segment.target(memory)?)?;
        }
        segments.push(segment);
    }
    Ok(Executable { entry, segments })
}

/// Reads a structure of plain numbers, `part` of the executable, at `offset`.
fn read<T: ByteValued + Default>(
    source: &mut impl Source,
    part: &'static str,
    offset: u64,
) -> Result<T, Fault> {
    let needed_bytes = offset.saturating_add(size_of::<T>() as u64);
    if source.len_bytes().is_some_and(|len| needed_bytes > len) {
        return Err(Fault::Truncated { part, needed_bytes });
    }
    let mut value = T::default();
    source.skip_to(offset)?;
    source.fill(&VolatileSlice::from(value.as_mut_slice()))?;
    Ok(value)
}

fn file_header(source: &mut impl Source) -> Result<Elf64_Ehdr, Fault> {
    let header: Elf64_Ehdr = read(source, "ELF header", 0)?;
    if !header.e_ident.starts_with(ELFMAG) {
        return Err(Fault::NotElf);
    }
    match header.e_ident[EI_CLASS] {
        ELFCLASS64 => {}
        ELFCLASS32 => return Err(Fault::Class32),
        _ => return Err(Fault::Malformed("its ELF class is neither 32 nor 64 bits")),
    }
    if header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_machine != EM_X86_64 {
        return Err(Fault::OtherMachine(header.e_machine));
    }
    if ![ET_EXEC, ET_DYN].contains(&header.e_type) {
        return Err(Fault::Malformed("it is an ELF file, but not an executable"));
    }
    Ok(header)
}

/// The headers of the segments to load, in the order in which the file holds them.
fn program_headers(
    source: &mut impl Source,
    header: &Elf64_Ehdr,
) -> Result<Vec<Elf64_Phdr>, Fault> {
    let entry_bytes = size_of::<Elf64_Phdr>();
    if usize::from(header.e_phentsize) != entry_bytes {
        return Err(Fault::Malformed("its program headers have an unknown size"));
    }
    if header.e_phnum > PROGRAM_HEADERS_MAX {
        return Err(Fault::Malformed("it has too many program headers"));
    }
    let mut headers = Vec::new();
    let mut offset = header.e_phoff;
    for _ in 0..header.e_phnum {
        let entry: Elf64_Phdr = read(source, "program headers", offset)?;
        if entry.p_type == PT_LOAD && entry.p_memsz > 0 {
            headers.push(entry);
        }
        offset = offset.saturating_add(entry_bytes as u64);
    }
    if headers.is_empty() {
        return Err(Fault::Malformed("it has no segment to load"));
    }
    headers.sort_by_key(|header| header.p_offset);
    Ok(headers)
}

fn check(header: &Elf64_Phdr, len_bytes: Option<u64>, low_ram_end: u64) -> Result<(), Fault> {
    if header.p_filesz > header.p_memsz {
        return Err(Fault::Malformed(
            "a segment has more bytes in the file than in memory",
        ));
    }
    if header.p_paddr < KERNEL_MIN {
        return Err(Fault::Malformed(
            "a segment belongs below 1 MiB, where the boot data lie",
        ));
    }
    let needed_bytes = header.p_offset.saturating_add(header.p_filesz);
    if len_bytes.is_some_and(|len| needed_bytes > len) {
        return Err(Fault::Truncated {
            part: "segments",
            needed_bytes,
        });
    }
    let segment = Segment {
        address: header.p_paddr,
        file_bytes: header.p_filesz,
        memory_bytes: header.p_memsz,
    };
    segment
        .check_fits(low_ram_end)
        .map_err(|needed_bytes| Fault::DoesNotFit { needed_bytes })
}

/// Segments that overlapped in memory would depend on the order in which they are read.
fn check_apart(headers: &[Elf64_Phdr]) -> Result<(), Fault> {
    let mut ranges: Vec<_> = headers
        .iter()
        .map(|header| header.p_paddr..header.p_paddr + header.p_memsz)
        .collect();
    ranges.sort_by_key(|range| range.start);
    if ranges.windows(2).any(|pair| pair[1].start < pair[0].end) {
        return Err(Fault::Malformed("its segments overlap in memory"));
    }
    Ok(())
}

/// Linux's `e_entry` is a physical address; other kernels give the virtual one.
fn physical_entry(entry: u64, headers: &[Elf64_Phdr]) -> Result<u64, Fault> {
    let within = |start: u64, header: &Elf64_Phdr| {
        entry
            .checked_sub(start)
            .filter(|offset| *offset < header.p_memsz)
    };
    if headers
        .iter()
        .any(|header| within(header.p_paddr, header).is_some())
    {
        return Ok(entry);
    }
    headers
        .iter()
        .find_map(|header| within(header.p_vaddr, header).map(|offset| header.p_paddr + offset))
        .ok_or(Fault::Malformed(
            "its entry point lies outside of its segments",
        ))
}
