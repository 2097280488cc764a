//! The compressed kernel inside a bzImage, decompressed as it is read.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Take};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use vm_memory::VolatileSlice;

use super::source::{CHUNK_BYTES, Source, copy_unless_zero};

/// No kernel is larger; what claims to be is a decompression bomb.
const KERNEL_BYTES_MAX: u64 = 1 << 30;
/// The most memory that a decoder may take for its dictionary or window. Kernels are packed with
/// dictionaries of up to 128 MiB.
const DECODER_MEMORY_KIB_MAX: u32 = 256 << 10;

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// The `.lzma` format of LZMA Utils.
    Lzma,
    /// xz, with or without its filter for x86 code.
    Xz,
    /// The legacy frame format of LZ4.
    Lz4,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// Who can decompress a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    /// We can.
    Host(Compression),
    /// LZO: only the kernel's own decompressor can, because no well-kept crate does.
    Guest,
}

impl Decoder {
    /// Tells the format by the payload's first bytes, as Linux does (`lib/decompress.c`).
    pub(super) fn detect(magic: [u8; 4]) -> Option<Self> {
        let compression = match magic {
            [0x1f, 0x8b | 0x9e, ..] => Compression::Gzip,
            [b'B', b'Z', b'h', _] => Compression::Bzip2,
            [0x5d, 0, ..] => Compression::Lzma,
            [0xfd, b'7', b'z', b'X'] => Compression::Xz,
            [0x02, 0x21, 0x4c, 0x18] => Compression::Lz4,
            [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
            [0x89, b'L', b'Z', b'O'] => return Some(Self::Guest),
            _ => return None,
        };
        Some(Self::Host(compression))
    }
}

impl Compression {
    fn decoder<R: Read + 'static>(self, input: BufReader<R>) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::GzDecoder::new(input)),
            Self::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(input)),
            Self::Lzma => Box::new(lzma_rust2::LzmaReader::new_mem_limit(
                input,
                DECODER_MEMORY_KIB_MAX,
                None,
            )?),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
                input,
                false,
                DECODER_MEMORY_KIB_MAX,
            )),
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(input)),
            Self::Zstd => Box::new(ZstdDecoder::new(input)?),
        })
    }
}

/// A Zstandard frame. The decoder computes the frame's checksum, but leaves it to its user to look.
struct ZstdDecoder<R: Read>(StreamingDecoder<R, FrameDecoder>);

impl<R: Read> ZstdDecoder<R> {
    fn new(input: R) -> io::Result<Self> {
        let window_bytes_max = u64::from(DECODER_MEMORY_KIB_MAX) << 10;
        StreamingDecoder::new_with_max_window_size(input, window_bytes_max)
            .map(Self)
            .map_err(io::Error::other)
    }
}

impl<R: Read> Read for ZstdDecoder<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(target)?;
        let decoder = &self.0.decoder;
        if read == 0 && decoder.is_finished() {
            let expected = decoder.get_checksum_from_data();
            if expected.is_some() && expected != decoder.get_calculated_checksum() {
                return Err(io::Error::other("its checksum is wrong"));
            }
        }
        Ok(read)
    }
}

/// A payload as a stream of the bytes that it decompresses to.
pub(super) struct PayloadSource {
    decoder: Box<dyn Read>,
    position: u64,
    /// What the build appended to the payload: the length that it decompresses to.
    len_bytes: Option<u64>,
    chunk: Vec<u8>,
}

impl PayloadSource {
    /// Decompresses `input`, which begins at the payload and ends with it.
    pub(super) fn new(
        input: Take<File>,
        compression: Compression,
        len_bytes: Option<u64>,
    ) -> io::Result<Self> {
        if len_bytes.is_some_and(|len| len > KERNEL_BYTES_MAX) {
            return Err(io::Error::other("it claims to hold more than 1 GiB"));
        }
        let decoder = compression.decoder(BufReader::with_capacity(CHUNK_BYTES, input))?;
        Ok(Self {
            decoder,
            position: 0,
            len_bytes,
            chunk: vec![0; CHUNK_BYTES],
        })
    }

    /// Reads what no segment wants, so that the decoder checks its checksums, and compares the
    /// length with that which the build appended.
    pub(super) fn finish(mut self) -> io::Result<()> {
        while self.read_chunk(CHUNK_BYTES)? > 0 {}
        match self.len_bytes {
            Some(len) if len != self.position => Err(io::Error::other(format!(
                "it decompresses to {} bytes and should to {len}",
                self.position
            ))),
            _ => Ok(()),
        }
    }

    /// Decompresses up to `len` bytes into the chunk and returns their number.
    fn read_chunk(&mut self, len: usize) -> io::Result<usize> {
        let len = len.min(CHUNK_BYTES);
        let read = loop {
            match self.decoder.read(&mut self.chunk[..len]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.position += read as u64;
        let claimed = self.len_bytes.unwrap_or(KERNEL_BYTES_MAX);
        if self.position > claimed {
            let reason = format!("it decompresses to more than {claimed} bytes");
            return Err(io::Error::other(reason));
        }
        Ok(read)
    }

    /// As [`Self::read_chunk`], where there must be more.
    fn read_more(&mut self, len: usize) -> io::Result<usize> {
        match self.read_chunk(len)? {
            0 => Err(io::Error::other(format!(
                "it ends after {} bytes",
                self.position
            ))),
            read => Ok(read),
        }
    }
}

impl Source for PayloadSource {
    fn len_bytes(&self) -> Option<u64> {
        self.len_bytes
    }

    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        let mut gap = offset
            .checked_sub(self.position)
            .ok_or_else(|| io::Error::other("its segments overlap or lie before their headers"))?;
        while gap > 0 {
            gap -= self.read_more(usize::try_from(gap).unwrap_or(CHUNK_BYTES))? as u64;
        }
        Ok(())
    }

    fn fill(&mut self, target: &VolatileSlice<'_>) -> io::Result<()> {
        let mut filled = 0;
        while filled < target.len() {
            let read = self.read_more(target.len() - filled)?;
            copy_unless_zero(&self.chunk[..read], target, filled)?;
            filled += read;
        }
        Ok(())
    }
}
