//! A directory of decompressed kernels, so that only the first boot of a bzImage pays for its
//! decompression.
//!
//! ```text
//! kernel-<checksum of the key>
//!      0  header: key, entry point, extent, map of chunks, checksums
//!   4096  the chunks that are not all zero, in the order of their addresses
//! ```
//!
//! A third of a kernel is zeroes; leaving them out spares the copy and the memory that the guest
//! may never use.
//!
//! An entry is written beside its name and renamed. All of it is covered by checksums, so what a
//! crash, a full disk or a stray write leaves behind is found out, and the kernel decompressed
//! again.
#![expect(unsafe_code, reason = "maps its own files")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::KernelFile;
use super::source::{CHUNK_BYTES, is_zero};
use crate::layout::KERNEL_MIN;

const MAGIC: [u8; 8] = *b"mvkern\x00\x01";
const NAME_PREFIX: &str = "kernel-";
/// More kernels than one uses at a time; the oldest beyond are removed.
const ENTRIES_MAX: usize = 4;
const PAGE_BYTES: usize = 4096;
/// How much of the kernel file's end goes into the key.
const TAIL_BYTES: usize = 4096;
/// A bit for each chunk of a kernel of 1 GiB.
const MAP_BYTES: usize = (1 << 30) / CHUNK_BYTES / 8;

/// What tells a kernel file from another, without reading all of it. Kernels differ in their
/// beginning, which names the version and the build, and mostly in their end, a checksum.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Key {
    file_bytes: U64,
    modified_s: I64,
    modified_ns: I64,
    head_crc32c: U32,
    tail_crc32c: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    key: Key,
    /// The physical address of the entry point.
    entry: U64,
    /// The guest memory that the kernel takes.
    start: U64,
    end: U64,
    /// Bit `n % 8` of byte `n / 8`: whether chunk `n`, counted from `start`, is in the file.
    map: [u8; MAP_BYTES],
    content_crc32c: U32,
    /// Of all before.
    own_crc32c: U32,
}

const _: () = assert!(size_of::<Header>() == 2120 && size_of::<Header>() <= PAGE_BYTES);

impl Header {
    fn checksum(&self) -> u32 {
        let bytes = self.as_bytes();
        crc32c::crc32c(&bytes[..bytes.len() - size_of::<U32>()])
    }

    fn has(&self, chunk: usize) -> bool {
        self.map[chunk / 8] & (1 << (chunk % 8)) != 0
    }

    fn add(&mut self, chunk: usize) {
        self.map[chunk / 8] |= 1 << (chunk % 8);
    }
}

/// The chunks of `span` with their addresses and lengths, or `None` where it has too many.
fn chunks(span: &Range<u64>) -> Option<impl Iterator<Item = (usize, GuestAddress, usize)>> {
    let len = usize::try_from(span.end.checked_sub(span.start)?).ok()?;
    let start = span.start;
    (len <= MAP_BYTES * 8 * CHUNK_BYTES).then(|| {
        (0..len.div_ceil(CHUNK_BYTES)).map(move |chunk| {
            let offset = chunk * CHUNK_BYTES;
            let address = GuestAddress(start + offset as u64);
            (chunk, address, CHUNK_BYTES.min(len - offset))
        })
    })
}

/// A kernel as the cache keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cached {
    /// The physical address of the entry point.
    pub(super) entry: u64,
    /// The guest memory that the kernel takes.
    pub(super) span: Range<u64>,
}

/// The place of one kernel in the cache.
pub(super) struct Cache {
    dir: PathBuf,
    key: Key,
}

impl Cache {
    /// The place of `kernel` in the directory `dir`, neither of which need be there.
    pub(super) fn new(dir: &Path, kernel: &KernelFile<'_>) -> Self {
        let mut tail = vec![0; TAIL_BYTES];
        let tail_at = kernel.file_bytes().saturating_sub(TAIL_BYTES as u64);
        // A tail that cannot be read is no part of the key; reading the kernel will tell.
        let read = kernel.file.read_at(&mut tail, tail_at).unwrap_or(0);
        let key = Key {
            file_bytes: kernel.file_bytes().into(),
            modified_s: kernel.metadata.mtime().into(),
            modified_ns: kernel.metadata.mtime_nsec().into(),
            head_crc32c: crc32c::crc32c(&kernel.head).into(),
            tail_crc32c: crc32c::crc32c(&tail[..read]).into(),
        };
        Self {
            dir: dir.to_owned(),
            key,
        }
    }

    fn path(&self) -> PathBuf {
        let sum = crc32c::crc32c(self.key.as_bytes());
        self.dir.join(format!("{NAME_PREFIX}{sum:08x}"))
    }

    /// Reads the kernel into guest memory, if it is here and whole.
    pub(super) fn load(&self, memory: &GuestMemoryMmap, low_ram_end: u64) -> Option<Cached> {
        let path = self.path();
        match self.try_load(&path, memory, low_ram_end) {
            Ok(cached) => Some(cached),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("{}: cached kernel not used: {error}", path.display());
                None
            }
        }
    }

    fn try_load(
        &self,
        path: &Path,
        memory: &GuestMemoryMmap,
        low_ram_end: u64,
    ) -> io::Result<Cached> {
        let entry = map_entry(path)?;
        let (header, _) = Header::ref_from_prefix(&entry)
            .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        if header.magic != MAGIC || header.own_crc32c.get() != header.checksum() {
            return Err(io::Error::other("its header is corrupt"));
        }
        if header.key != self.key {
            return Err(io::Error::other("it belongs to another kernel"));
        }
        let span = header.start.get()..header.end.get();
        if span.start < KERNEL_MIN || span.end > low_ram_end {
            return Err(io::Error::other("it does not fit in this guest's memory"));
        }
        let content = read_chunks(&entry, header, &span, memory);
        if !matches!(content, Ok(crc32c) if crc32c == header.content_crc32c.get()) {
            clear_chunks(header, &span, memory)?;
            content?;
            return Err(io::Error::other("its content is corrupt"));
        }
        Ok(Cached {
            entry: header.entry.get(),
            span,
        })
    }

    /// Keeps the kernel that was just loaded. Failing to only costs the next boot time.
    pub(super) fn store(&self, memory: &GuestMemoryMmap, cached: &Cached) {
        let path = self.path();
        match self.try_store(&path, memory, cached) {
            Ok(()) => tracing::debug!("{}: kernel cached", path.display()),
            Err(error) => tracing::info!("{}: kernel not cached: {error}", path.display()),
        }
    }

    fn try_store(&self, path: &Path, memory: &GuestMemoryMmap, cached: &Cached) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        let mut header = Header::new_zeroed();
        header.magic = MAGIC;
        header.key = self.key;
        header.entry = cached.entry.into();
        header.start = cached.span.start.into();
        header.end = cached.span.end.into();
        let content = write_chunks(file.as_file_mut(), &mut header, &cached.span, memory)?;
        header.content_crc32c = content.into();
        header.own_crc32c = header.checksum().into();
        file.as_file().write_all_at(header.as_bytes(), 0)?;
        file.persist(path).map_err(|error| error.error)?;
        self.remove_oldest()
    }

    /// Removes the oldest entries, so that the directory does not grow with every new kernel.
    fn remove_oldest(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if is_entry(&entry.file_name()) {
                entries.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        entries.sort_unstable();
        let excess = entries.len().saturating_sub(ENTRIES_MAX);
        entries[..excess]
            .iter()
            .try_for_each(|(_, path)| fs::remove_file(path))
    }
}

fn is_entry(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(NAME_PREFIX.as_bytes())
}

/// Maps an entry, which spares a copy of the kernel through a buffer.
fn map_entry(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: nobody changes an entry: it is written beside its name, renamed, and only ever
    // replaced or removed as a whole, which leaves the mapped file alone.
    unsafe { MmapOptions::new().populate().map(&file) }
}

/// Copies the chunks that `header` names into guest memory and returns their checksum.
fn read_chunks(
    entry: &[u8],
    header: &Header,
    span: &Range<u64>,
    memory: &GuestMemoryMmap,
) -> io::Result<u32> {
    let truncated = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut rest = entry.get(PAGE_BYTES..).ok_or_else(truncated)?;
    let mut crc32c = 0;
    for (chunk, address, len) in chunks(span).ok_or_else(too_large)? {
        if header.has(chunk) {
            let (content, behind) = rest.split_at_checked(len).ok_or_else(truncated)?;
            rest = behind;
            crc32c = crc32c::crc32c_append(crc32c, content);
            memory
                .write_slice(content, address)
                .map_err(io::Error::other)?;
        }
    }
    Ok(crc32c)
}

/// Makes zeroes again of what [`read_chunks`] read, for another source to load the kernel from.
fn clear_chunks(header: &Header, span: &Range<u64>, memory: &GuestMemoryMmap) -> io::Result<()> {
    let zeroes = vec![0; CHUNK_BYTES];
    for (_, address, len) in chunks(span)
        .ok_or_else(too_large)?
        .filter(|c| header.has(c.0))
    {
        memory
            .write_slice(&zeroes[..len], address)
            .map_err(io::Error::other)?;
    }
    Ok(())
}

/// Copies the chunks that are not all zero out of guest memory, names them in `header` and returns
/// their checksum.
fn write_chunks(
    file: &mut File,
    header: &mut Header,
    span: &Range<u64>,
    memory: &GuestMemoryMmap,
) -> io::Result<u32> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut crc32c = 0;
    file.seek(SeekFrom::Start(PAGE_BYTES as u64))?;
    for (chunk, address, len) in chunks(span).ok_or_else(too_large)? {
        let buffer = &mut buffer[..len];
        memory
            .read_slice(buffer, address)
            .map_err(io::Error::other)?;
        if !is_zero(buffer) {
            header.add(chunk);
            crc32c = crc32c::crc32c_append(crc32c, buffer);
            file.write_all(buffer)?;
        }
    }
    Ok(crc32c)
}

fn too_large() -> io::Error {
    io::Error::other("it has more than 1 GiB")
}
