//! The compressions that Debian and Ubuntu use for kernels and modules.

use std::io::{self, Read};

use lz4_flex::frame::FrameDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

/// The largest output: far more than any kernel, far less than the host's memory.
const OUTPUT_BYTES_MAX: u64 = 1 << 30;

/// A compression, told by the first bytes of what it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// The LZ4 legacy frame, as `lz4 -l` writes it.
    Lz4Legacy,
    /// XZ, with any of its filters.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Compression {
    /// Looks at the first bytes of `data`; `None` means that they are not compressed, or not in a
    /// way known here.
    pub fn detect(data: &[u8]) -> Option<Self> {
        match data {
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4Legacy),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Decompresses the whole of `data`, to at most 1 GiB.
    pub fn decompress(self, data: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Lz4Legacy => read_bounded(FrameDecoder::new(data)),
            Self::Xz => read_bounded(XzReader::new(data, false)),
            Self::Zstd => read_bounded(StreamingDecoder::new(data).map_err(io::Error::other)?),
        }
    }
}

fn read_bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    reader.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut output)?;
    if output.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more than 1 GiB of output",
        ));
    }
    Ok(output)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `data` as `lz4 -l` packs it: a magic number, then blocks, each after its length.
    pub(crate) fn lz4_legacy(data: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(data);
        let len = u32::try_from(block.len()).unwrap().to_le_bytes();
        [&[0x02, 0x21, 0x4c, 0x18], &len[..], &block].concat()
    }

    /// `printf hello |` each compressor.
    const XZ: &[u8] = b"\xfd7zXZ\x00\x00\x01i\"\xde6\x02\x00!\x01\x16\x00\x00\x00t/\xe5\xa3\
        \x01\x00\x04hello\x00\x00\x00\x00\x86\xa6\x106\x00\x01\x19\x05\xbc\xe8\xec\xcb\x90B\x99\x0d\
        \x01\x00\x00\x00\x00\x01YZ";
    const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd\x04\x58\x29\x00\x00hello\xa3\x6d\x9f\x88";

    #[test]
    fn each_compression_is_told_by_its_magic() {
        for packed in [&lz4_legacy(b"hello"), XZ, ZSTD] {
            let compression = Compression::detect(packed).unwrap();
            let output = compression.decompress(packed).unwrap();
            assert_eq!(output, b"hello", "{compression:?}");
        }
        assert_eq!(Compression::detect(b"\x7fELF"), None);
        assert_eq!(Compression::detect(b""), None);
    }

    #[test]
    fn truncated_input_is_an_error() {
        for packed in [&XZ[..XZ.len() - 5], &ZSTD[..ZSTD.len() - 2]] {
            assert!(
                Compression::detect(packed)
                    .unwrap()
                    .decompress(packed)
                    .is_err()
            );
        }
    }
}
