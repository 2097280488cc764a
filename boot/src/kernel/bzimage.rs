//! bzImage: the setup header, the payload, and the two ways to enter the kernel (Linux,
//! `Documentation/arch/x86/boot.rst`).

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use linux_loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::cache::{Cache, Cached};
use super::payload::{Compression, Decoder, PayloadSource};
use super::{Kernel, KernelFile, elf};
use crate::Error;
use crate::layout::KERNEL_MIN;

/// Where the setup header begins, in the file as in the zero page.
const HEADER_OFFSET: usize = 0x1f1;
/// The second byte of the jump over the header: its end, counted from [`JUMP_TARGET`].
const JUMP_DISTANCE: usize = 0x201;
const JUMP_TARGET: usize = 0x202;
const SECTOR_BYTES: u64 = 512;
const PARAGRAPH_BYTES: u64 = 16;
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// The version of the boot protocol that a header of our own claims.
const VERSION_CURRENT: u16 = 0x20f;
/// The first with the command line's length.
const VERSION_MIN: u16 = 0x206;
/// The first that says where the payload is.
const VERSION_PAYLOAD: u16 = 0x208;
/// The first that says whether there is a 64-bit entry point.
const VERSION_ENTRY_64: u16 = 0x20c;
/// The distance from a bzImage's load address to its 64-bit entry point.
const ENTRY_64_OFFSET: u64 = 0x200;
/// How far into the protected-mode code a payload is searched for where the header does not tell.
const SEARCH_BYTES: usize = 128 << 10;
const GZIP_DEFLATE: [u8; 3] = [0x1f, 0x8b, 0x08];

/// A setup header and the part of the file that it describes.
pub(super) struct Header {
    header: setup_header,
    /// The protected-mode code: from behind the setup code on.
    code: Range<u64>,
}

impl Header {
    /// The header of `kernel`, if it has one.
    pub(super) fn find(kernel: &KernelFile<'_>) -> Result<Option<Self>, Error> {
        let header = setup_header_in(&kernel.head);
        if header.boot_flag != BOOT_FLAG || header.header != MAGIC {
            return Ok(None);
        }
        if header.version < VERSION_MIN {
            let needed = "2.06 (Linux 2.6.22) or later is needed";
            return Err(too_old(kernel, header.version, needed));
        }
        if header.loadflags & LOADED_HIGH == 0 {
            return Err(kernel.malformed("it is a zImage, a bzImage is needed"));
        }
        // Zero stands for four, for the sake of kernels older than the field.
        let setup_sectors = match header.setup_sects {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let start = (setup_sectors + 1) * SECTOR_BYTES;
        let end = start + u64::from(header.syssize) * PARAGRAPH_BYTES;
        kernel.check_holds("protected-mode code", end)?;
        Ok(Some(Self {
            header,
            code: start..end,
        }))
    }

    /// Decompresses the kernel into guest memory, or takes it from `cache`.
    pub(super) fn load_extracted(
        &self,
        memory: &GuestMemoryMmap,
        kernel: &KernelFile<'_>,
        low_ram_end: u64,
        cache: Option<&Cache>,
    ) -> Result<Kernel, Error> {
        if let Some(Cached { entry, span }) = cache.and_then(|c| c.load(memory, low_ram_end)) {
            return Ok(Kernel {
                entry,
                span,
                header: self.header,
            });
        }
        let payload = self.payload(kernel)?;
        let compression = match payload.decoder(kernel)? {
            Decoder::Host(compression) => compression,
            Decoder::Guest => return self.load_compressed(memory, kernel, low_ram_end),
        };
        let corrupt = |source| Error::CorruptPayload {
            path: kernel.path.to_owned(),
            compression,
            source,
        };
        let mut source = payload.open(kernel, compression).map_err(corrupt)?;
        let executable = elf::load(memory, &mut source, low_ram_end)
            .map_err(|fault| fault.in_payload(kernel, compression, low_ram_end))?;
        source.finish().map_err(corrupt)?;
        let (entry, span) = (executable.entry, executable.span());
        if let Some(cache) = cache {
            cache.store(
                memory,
                &Cached {
                    entry,
                    span: span.clone(),
                },
            );
        }
        Ok(Kernel {
            entry,
            span,
            header: self.header,
        })
    }

    /// Loads the file's own decompressor with its payload, which moves the kernel to an address
    /// of its choice.
    pub(super) fn load_compressed(
        &self,
        memory: &GuestMemoryMmap,
        kernel: &KernelFile<'_>,
        low_ram_end: u64,
    ) -> Result<Kernel, Error> {
        let header = self.header;
        if header.version < VERSION_ENTRY_64 {
            let needed = "2.12 (Linux 3.8) or later is needed where the kernel decompresses itself";
            return Err(too_old(kernel, header.version, needed));
        }
        if header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(Error::Kernel32Bit {
                path: kernel.path.to_owned(),
            });
        }
        let start = header.pref_address;
        if start < KERNEL_MIN {
            return Err(kernel.malformed("it wants to be loaded below 1 MiB"));
        }
        let code_bytes = self.code.end - self.code.start;
        let end = start.saturating_add(u64::from(header.init_size).max(code_bytes));
        if end > low_ram_end {
            let path = kernel.path.to_owned();
            let (needed_bytes, low_ram_bytes) = (end, low_ram_end);
            return Err(Error::KernelTooLarge {
                path,
                needed_bytes,
                low_ram_bytes,
            });
        }
        self.read_code(memory, kernel, start)
            .map_err(|error| kernel.read_error(error))?;
        let code32_start = u32::try_from(start).expect("it is below the end of low RAM");
        let header = setup_header {
            code32_start,
            ..header
        };
        Ok(Kernel {
            entry: start + ENTRY_64_OFFSET,
            span: start..end,
            header,
        })
    }

    /// Reads the protected-mode code to `address`, where it fits.
    fn read_code(
        &self,
        memory: &GuestMemoryMmap,
        kernel: &KernelFile<'_>,
        address: u64,
    ) -> io::Result<()> {
        let len = usize::try_from(self.code.end - self.code.start).map_err(io::Error::other)?;
        let mut file = &kernel.file;
        file.seek(SeekFrom::Start(self.code.start))?;
        memory
            .read_exact_volatile_from(GuestAddress(address), &mut file, len)
            .map_err(io::Error::other)
    }

    fn payload(&self, kernel: &KernelFile<'_>) -> Result<Payload, Error> {
        if self.header.version < VERSION_PAYLOAD {
            return self.search_payload(kernel);
        }
        let start = self.code.start + u64::from(self.header.payload_offset);
        let end = start + u64::from(self.header.payload_length);
        kernel.check_holds("payload", end)?;
        if end - start < Payload::BYTES_MIN {
            return Err(kernel.malformed("its payload is empty"));
        }
        Ok(Payload {
            range: start..end,
            has_length: true,
        })
    }

    /// Finds the payload of a kernel from before Linux 2.6.26, when all were packed with gzip.
    fn search_payload(&self, kernel: &KernelFile<'_>) -> Result<Payload, Error> {
        let mut code = Vec::new();
        let mut file = &kernel.file;
        file.seek(SeekFrom::Start(self.code.start))
            .and_then(|_| file.take(SEARCH_BYTES as u64).read_to_end(&mut code))
            .map_err(|error| kernel.read_error(error))?;
        let offset = code
            .windows(GZIP_DEFLATE.len())
            .position(|window| window == GZIP_DEFLATE)
            .ok_or_else(|| kernel.malformed("its payload is not to be found"))?;
        Ok(Payload {
            range: self.code.start + offset as u64..self.code.end,
            has_length: false,
        })
    }
}

/// The part of the file that holds the compressed kernel.
struct Payload {
    range: Range<u64>,
    /// Whether the last four bytes give the decompressed length.
    has_length: bool,
}

impl Payload {
    /// A magic number and a length.
    const BYTES_MIN: u64 = 8;
    const LENGTH_BYTES: u64 = 4;

    fn decoder(&self, kernel: &KernelFile<'_>) -> Result<Decoder, Error> {
        let magic = bytes_at(kernel, self.range.start).map_err(|error| kernel.read_error(error))?;
        Decoder::detect(magic).ok_or_else(|| Error::UnknownCompression {
            path: kernel.path.to_owned(),
            magic,
        })
    }

    fn open(&self, kernel: &KernelFile<'_>, compression: Compression) -> io::Result<PayloadSource> {
        let mut end = self.range.end;
        let mut len_bytes = None;
        if self.has_length {
            let length_at = self.range.end - Self::LENGTH_BYTES;
            len_bytes = Some(u64::from(u32::from_le_bytes(bytes_at(kernel, length_at)?)));
            // The build appends the length to all but gzip's files, which have it anyway.
            if compression != Compression::Gzip {
                end = length_at;
            }
        }
        let mut file = kernel.file.try_clone()?;
        file.seek(SeekFrom::Start(self.range.start))?;
        PayloadSource::new(file.take(end - self.range.start), compression, len_bytes)
    }
}

fn bytes_at(kernel: &KernelFile<'_>, offset: u64) -> io::Result<[u8; 4]> {
    let mut bytes = [0; 4];
    kernel.file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn too_old(kernel: &KernelFile<'_>, version: u16, needed: &'static str) -> Error {
    Error::ProtocolTooOld {
        path: kernel.path.to_owned(),
        version,
        needed,
    }
}

/// The header in a file's first bytes, up to the end that it gives itself; what lies behind that
/// is code, and reads as zero.
fn setup_header_in(head: &[u8]) -> setup_header {
    let mut header = setup_header::default();
    let length = head
        .get(JUMP_DISTANCE)
        .map_or(0, |distance| usize::from(*distance));
    let end = (JUMP_TARGET + length).min(head.len());
    let bytes = head.get(HEADER_OFFSET..end).unwrap_or_default();
    let target = header.as_mut_slice();
    let len = bytes.len().min(target.len());
    target[..len].copy_from_slice(&bytes[..len]);
    header
}

/// The header for a kernel that comes without one, an ELF vmlinux.
pub(super) fn header_for_elf() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: MAGIC,
        version: VERSION_CURRENT,
        loadflags: LOADED_HIGH,
        // What every x86-64 kernel says of itself, and of its command line.
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x100_0000,
        cmdline_size: 2047,
        ..Default::default()
    }
}
