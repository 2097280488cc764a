//! The kernel file: which kind it is, and how each kind gets into guest memory.

mod bzimage;
mod cache;
mod elf;
mod payload;
mod source;

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use linux_loader::bootparam::setup_header;
use linux_loader::elf::ELFMAG;
use vm_memory::GuestMemoryMmap;

use self::source::FileSource;
use crate::{Error, Image};

pub use payload::Compression;

/// How much of a file is looked at to tell what it is. A bzImage's setup header ends before.
const HEAD_BYTES: u64 = 4096;
const KASLR_UNAVAILABLE: &str = "an ELF kernel cannot randomise its addresses, use the bzImage";

/// A kernel in guest memory.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The physical address of the 64-bit entry point.
    pub(crate) entry: u64,
    /// The guest memory that the kernel takes, its zeroed data included.
    pub(crate) span: Range<u64>,
    /// The header that goes into the zero page.
    pub(crate) header: setup_header,
}

/// A kernel file and its first bytes.
struct KernelFile<'a> {
    path: &'a Path,
    file: File,
    metadata: Metadata,
    head: Vec<u8>,
}

impl<'a> KernelFile<'a> {
    fn open(path: &'a Path) -> Result<Self, Error> {
        let failed = |operation| {
            move |source| Error::File {
                path: path.to_owned(),
                operation,
                source,
            }
        };
        // Looked at before it is opened: opening a pipe waits for a writer.
        let metadata = fs::metadata(path).map_err(failed("open the kernel"))?;
        if !metadata.is_file() {
            return Err(Error::NotAFile {
                path: path.to_owned(),
            });
        }
        let mut file = File::open(path).map_err(failed("open the kernel"))?;
        let metadata = file.metadata().map_err(failed("examine the kernel"))?;
        let mut head = Vec::new();
        file.by_ref()
            .take(HEAD_BYTES)
            .read_to_end(&mut head)
            .map_err(failed("read the kernel"))?;
        Ok(Self {
            path,
            file,
            metadata,
            head,
        })
    }

    fn file_bytes(&self) -> u64 {
        self.metadata.len()
    }

    fn read_error(&self, source: io::Error) -> Error {
        Error::File {
            path: self.path.to_owned(),
            operation: "read the kernel",
            source,
        }
    }

    fn malformed(&self, reason: &'static str) -> Error {
        Error::Malformed {
            path: self.path.to_owned(),
            reason,
        }
    }

    /// An error unless the file has the bytes up to `needed_bytes`, where `part` ends.
    fn check_holds(&self, part: &'static str, needed_bytes: u64) -> Result<(), Error> {
        let file_bytes = self.file_bytes();
        if needed_bytes > file_bytes {
            let path = self.path.to_owned();
            return Err(Error::Truncated {
                path,
                part,
                needed_bytes,
                file_bytes,
            });
        }
        Ok(())
    }
}

/// Loads the kernel of `image` below `low_ram_end`.
pub(crate) fn load(
    memory: &GuestMemoryMmap,
    image: &Image<'_>,
    low_ram_end: u64,
) -> Result<Kernel, Error> {
    let kernel = KernelFile::open(image.kernel)?;
    if kernel.head.starts_with(ELFMAG) {
        if image.kaslr {
            return Err(kernel.malformed(KASLR_UNAVAILABLE));
        }
        return load_elf(memory, &kernel, low_ram_end);
    }
    let Some(header) = bzimage::Header::find(&kernel)? else {
        return Err(Error::NotAKernel {
            path: kernel.path.to_owned(),
        });
    };
    if image.kaslr {
        return header.load_compressed(memory, &kernel, low_ram_end);
    }
    let cache = image.cache_dir.map(|dir| cache::Cache::new(dir, &kernel));
    header.load_extracted(memory, &kernel, low_ram_end, cache.as_ref())
}

fn load_elf(
    memory: &GuestMemoryMmap,
    kernel: &KernelFile<'_>,
    low_ram_end: u64,
) -> Result<Kernel, Error> {
    let mut source = FileSource::new(&kernel.file, kernel.file_bytes());
    let executable = elf::load(memory, &mut source, low_ram_end)
        .map_err(|fault| fault.in_file(kernel, low_ram_end))?;
    let header = bzimage::header_for_elf();
    Ok(Kernel {
        entry: executable.entry,
        span: executable.span(),
        header,
    })
}

#[cfg(test)]
mod tests;
