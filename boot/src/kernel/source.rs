//! Where the bytes of an ELF kernel come from: a file, or a payload while it is decompressed.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

/// Bytes that are read from the front to the back, with gaps.
pub(super) trait Source {
    /// The number of bytes there are, where that is known before they are read.
    fn len_bytes(&self) -> Option<u64>;

    /// Goes to `offset`, which may not lie before what was read already.
    fn skip_to(&mut self, offset: u64) -> io::Result<()>;

    /// Reads as many bytes as `target` has room for.
    fn fill(&mut self, target: &VolatileSlice<'_>) -> io::Result<()>;
}

/// A file, read straight into guest memory.
pub(super) struct FileSource<'a> {
    file: &'a File,
    len_bytes: u64,
}

impl<'a> FileSource<'a> {
    pub(super) fn new(file: &'a File, len_bytes: u64) -> Self {
        Self { file, len_bytes }
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
        let mut target = target.offset(0).map_err(into_io)?;
        self.file.read_exact_volatile(&mut target).map_err(into_io)
    }
}

/// The system's error, where there is one in `error`.
pub(super) fn into_io(error: VolatileMemoryError) -> io::Error {
    match error {
        VolatileMemoryError::IOError(error) => error,
        other => io::Error::other(other),
    }
}
