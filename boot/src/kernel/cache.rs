//! A directory of decompressed kernels, so that only the first boot of a bzImage pays for its
//! decompression.
//!
//! ```text
//! kernel-<checksum of the key>
//!      0  header: key, entry point, segments, checksums
//!   4096  first segment's bytes; each further one at the next multiple of 4096
//! ```
//!
//! An entry is written beside its name and renamed. All of it is covered by checksums, so what a
//! crash, a full disk or a stray write leaves behind is found out, and the kernel decompressed
//! again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use vm_memory::{GuestMemoryMmap, VolatileSlice};
use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::KernelFile;
use super::elf::{Executable, Segment};
use crate::layout::KERNEL_MIN;

const MAGIC: [u8; 8] = *b"mvkern\x00\x01";
const NAME_PREFIX: &str = "kernel-";
/// More kernels than one uses at a time; the oldest beyond are removed.
const ENTRIES_MAX: usize = 4;
const SEGMENTS_MAX: usize = 16;
const PAGE_BYTES: u64 = 4096;
/// How much of the kernel file's end goes into the key.
const TAIL_BYTES: usize = 4096;
/// Small enough to stay in the processor's cache between checksum and copy.
const CHUNK_BYTES: usize = 64 << 10;

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

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SegmentRecord {
    address: U64,
    file_bytes: U64,
    memory_bytes: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    key: Key,
    entry: U64,
    segments: [SegmentRecord; SEGMENTS_MAX],
    segment_count: U32,
    content_crc32c: U32,
    /// Of all before.
    own_crc32c: U32,
}

const _: () = assert!(size_of::<Header>() == 444 && size_of::<Header>() as u64 <= PAGE_BYTES);

impl Header {
    fn new(key: Key, executable: &Executable, content_crc32c: u32) -> Option<Self> {
        let mut header = Self::new_zeroed();
        header.magic = MAGIC;
        header.key = key;
        header.entry = executable.entry.into();
        header.segment_count = u32::try_from(executable.segments.len()).ok()?.into();
        header.content_crc32c = content_crc32c.into();
        for (index, segment) in executable.segments.iter().enumerate() {
            *header.segments.get_mut(index)? = SegmentRecord {
                address: segment.address.into(),
                file_bytes: segment.file_bytes.into(),
                memory_bytes: segment.memory_bytes.into(),
            };
        }
        header.own_crc32c = header.checksum().into();
        Some(header)
    }

    fn checksum(&self) -> u32 {
        let bytes = self.as_bytes();
        crc32c::crc32c(&bytes[..bytes.len() - size_of::<U32>()])
    }

    fn executable(&self) -> Option<Executable> {
        let count = usize::try_from(self.segment_count.get()).ok()?;
        let segments = self.segments.get(..count)?.iter().map(|record| Segment {
            address: record.address.get(),
            file_bytes: record.file_bytes.get(),
            memory_bytes: record.memory_bytes.get(),
        });
        Some(Executable {
            entry: self.entry.get(),
            segments: segments.collect(),
        })
    }
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
    pub(super) fn load(&self, memory: &GuestMemoryMmap, low_ram_end: u64) -> Option<Executable> {
        let path = self.path();
        match self.try_load(&path, memory, low_ram_end) {
            Ok(executable) => Some(executable),
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
    ) -> io::Result<Executable> {
        let mut file = File::open(path)?;
        let mut header = Header::new_zeroed();
        file.read_exact(header.as_mut_bytes())?;
        if header.magic != MAGIC || header.own_crc32c.get() != header.checksum() {
            return Err(io::Error::other("its header is corrupt"));
        }
        if header.key != self.key {
            return Err(io::Error::other("it belongs to another kernel"));
        }
        let executable = header
            .executable()
            .ok_or_else(|| io::Error::other("too many segments"))?;
        for segment in &executable.segments {
            let fits = segment.check_fits(low_ram_end).is_ok();
            if !fits || segment.address < KERNEL_MIN {
                return Err(io::Error::other("it does not fit in this guest's memory"));
            }
        }
        let content = transfer(memory, &executable, &mut file, |file, target, chunk| {
            file.read_exact(chunk)?;
            target.copy_from(chunk);
            Ok(())
        })?;
        // What was read so far is overwritten when the kernel is decompressed to the same place.
        if content != header.content_crc32c.get() {
            return Err(io::Error::other("its content is corrupt"));
        }
        Ok(executable)
    }

    /// Keeps the kernel that was just loaded. Failing to only costs the next boot time.
    pub(super) fn store(&self, memory: &GuestMemoryMmap, executable: &Executable) {
        let path = self.path();
        match self.try_store(&path, memory, executable) {
            Ok(()) => tracing::debug!("{}: kernel cached", path.display()),
            Err(error) => tracing::info!("{}: kernel not cached: {error}", path.display()),
        }
    }

    fn try_store(
        &self,
        path: &Path,
        memory: &GuestMemoryMmap,
        executable: &Executable,
    ) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        let content = transfer(
            memory,
            executable,
            file.as_file_mut(),
            |file, target, chunk| {
                target.copy_to(chunk);
                file.write_all(chunk)
            },
        )?;
        let header = Header::new(self.key, executable, content)
            .ok_or_else(|| io::Error::other("it has too many segments"))?;
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

/// Moves all segments between guest memory and `file`, chunk by chunk through a buffer, and
/// returns the checksum of their bytes.
fn transfer(
    memory: &GuestMemoryMmap,
    executable: &Executable,
    file: &mut File,
    step: impl Fn(&mut File, &VolatileSlice<'_>, &mut [u8]) -> io::Result<()>,
) -> io::Result<u32> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut crc32c = 0;
    let mut offset = PAGE_BYTES;
    for segment in executable
        .segments
        .iter()
        .filter(|segment| segment.file_bytes > 0)
    {
        file.seek(SeekFrom::Start(offset))?;
        let target = segment.target(memory)?;
        for start in (0..target.len()).step_by(CHUNK_BYTES) {
            let len = CHUNK_BYTES.min(target.len() - start);
            let part = target.subslice(start, len).map_err(io::Error::other)?;
            step(file, &part, &mut chunk[..len])?;
            crc32c = crc32c::crc32c_append(crc32c, &chunk[..len]);
        }
        offset = (offset + segment.file_bytes).next_multiple_of(PAGE_BYTES);
    }
    Ok(crc32c)
}
