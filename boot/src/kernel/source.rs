//! Where the bytes of an ELF kernel come from: a file, or a payload while it is decompressed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use vm_memory::VolatileSlice;

/// How much is read at once.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

/// Bytes that are read from the front to the back, with gaps.
pub(super) trait Source {
    /// The number of bytes there are, where that is known before they are read.
    fn len_bytes(&self) -> Option<u64>;

    /// Goes to `offset`, which may not lie before what was read already.
    fn skip_to(&mut self, offset: u64) -> io::Result<()>;

    /// Reads as many bytes as `target` has room for.
    fn fill(&mut self, target: &VolatileSlice<'_>) -> io::Result<()>;
}

/// A file. It is read by chunks that stay in the processor's cache, so that those that are all
/// zero, a third of a kernel, need not be copied.
pub(super) struct FileSource<'a> {
    file: &'a File,
    len_bytes: u64,
    chunk: Vec<u8>,
}

impl<'a> FileSource<'a> {
    pub(super) fn new(file: &'a File, len_bytes: u64) -> Self {
        Self {
            file,
            len_bytes,
            chunk: vec![0; CHUNK_BYTES],
        }
    }
}

impl Source for FileSource<'_> {
    fn len_bytes(&self) -> Option<u64> {
        Some(self.len_bytes)
    }

    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset)).map(drop)
    }

    fn fill(&mut self, target: &VolatileSlice<'_>) -> io::Result<()> {
        for start in (0..target.len()).step_by(CHUNK_BYTES) {
            let chunk = &mut self.chunk[..CHUNK_BYTES.min(target.len() - start)];
            self.file.read_exact(chunk)?;
            copy_unless_zero(chunk, target, start)?;
        }
        Ok(())
    }
}

/// Copies `chunk` to `target` from `offset` on, where memory is zero. What is not touched costs no
/// page.
pub(super) fn copy_unless_zero(
    chunk: &[u8],
    target: &VolatileSlice<'_>,
    offset: usize,
) -> io::Result<()> {
    if !is_zero(chunk) {
        target
            .subslice(offset, chunk.len())
            .map_err(io::Error::other)?
            .copy_from(chunk);
    }
    Ok(())
}

/// Whether all bytes are zero; written so that the compiler compares many at a time.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(128)
        .all(|part| part.iter().fold(0, |any, byte| any | byte) == 0)
}
