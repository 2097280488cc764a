//! Compressed clusters. Part "Compressed Clusters Descriptor" of the specification.

use std::io::Write;
use std::rc::Rc;

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::image::Image;
use crate::journal::Journaled as _;
use crate::qcow2::file;
use crate::qcow2::format::{Cluster, Compression, L2Entry};
use crate::{Buffers, Error, Storage};

/// QEMU decompresses with a window of 4 KiB, so that no larger one may be used.
const WINDOW_BITS: u8 = 12;
/// What `zstd` takes by default, and QEMU.
const ZSTD_LEVEL: i32 = 3;

impl<S: Storage> Image<S> {
    /// The content of a cluster whose compressed data is within `len` bytes at `offset`.
    pub(super) async fn decompressed_cluster(
        &self,
        offset: u64,
        len: u64,
    ) -> Result<Rc<Vec<u8>>, Error> {
        if let Some(content) = self.decompressed.get(offset) {
            return Ok(content);
        }
        self.check_data(offset, len).await?;
        let input_bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let input = file::read(&self.storage, offset, input_bytes).await?;
        let cluster_bytes = usize::try_from(self.layout().cluster_bytes()).expect("at most 2 MiB");
        let compression = self.header.borrow().compression;
        let content = decompress(compression, &input, cluster_bytes);
        let content = Rc::new(content.ok_or_else(|| Error::Damaged {
            path: self.storage.path().to_owned(),
            offset,
            problem: "a compressed cluster cannot be decompressed".to_owned(),
        })?);
        self.decompressed.keep(offset, &content);
        Ok(content)
    }

    /// Writes one whole cluster, compressed if that saves space. `data` may end with the disk.
    pub(super) async fn write_compressed(&self, offset: u64, data: &Buffers) -> Result<(), Error> {
        let layout = self.layout();
        let mut content = data.to_vec();
        let cluster_bytes = usize::try_from(layout.cluster_bytes()).expect("at most 2 MiB");
        content.resize(cluster_bytes, 0);
        let compression = self.header.borrow().compression;
        let index = layout.cluster_index(offset);
        let _exclusive = self.guest.exclusive(index, index).await;
        let compressed = compress(compression, &content)
            .filter(|compressed| compressed.len() < cluster_bytes && self.data_file.is_none());
        match compressed {
            Some(compressed) => self.store_compressed(offset, compressed).await,
            None => self.write_mapping(offset, data).await,
        }
    }

    async fn store_compressed(&self, offset: u64, compressed: Vec<u8>) -> Result<(), Error> {
        let layout = self.layout();
        let old = self.cluster_at(offset).await?;
        let len = compressed.len() as u64;
        let at = self.allocate_bytes(len).await?;
        let new = Cluster::Compressed { offset: at, len };
        let written = if at + len <= L2Entry::compressed_offset_max(layout) {
            file::write(&self.storage, at, compressed).await
        } else {
            Err(Error::Unsupported {
                path: self.storage.path().to_owned(),
                problem: "the file is too large for compressed clusters".to_owned(),
            })
        };
        self.flusher.changed();
        let mapped = match written {
            Ok(()) => self.map(offset, old, new, false).await,
            Err(error) => Err(error),
        };
        if let Err(error) = mapped {
            self.unpin_bytes(at);
            return Err(error);
        }
        if let Some(journal) = self.journal() {
            journal.checks.note_unchecked();
        }
        Ok(())
    }
}

/// The compressed form of a cluster, if it can be made.
fn compress(compression: Compression, content: &[u8]) -> Option<Vec<u8>> {
    match compression {
        Compression::Zlib => {
            let level = flate2::Compression::default();
            let mut deflate = Compress::new_with_window_bits(level, false, WINDOW_BITS);
            let mut output = Vec::with_capacity(content.len());
            let status = deflate.compress_vec(content, &mut output, FlushCompress::Finish);
            // It does not end where the output has no room left: then it saves nothing.
            matches!(status, Ok(Status::StreamEnd)).then_some(output)
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL).ok()?;
            encoder.write_all(content).ok()?;
            encoder.finish().ok()
        }
    }
}

/// The `len` bytes that `input` begins with; what follows them in it is not looked at.
fn decompress(compression: Compression, input: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut output = Vec::with_capacity(len);
    match compression {
        Compression::Zlib => {
            let mut inflate = Decompress::new(false);
            inflate
                .decompress_vec(input, &mut output, FlushDecompress::Finish)
                .ok();
        }
        Compression::Zstd => {
            output.resize(len, 0);
            let filled = unpack_zstd(input, &mut output)?;
            output.truncate(filled);
        }
    }
    (output.len() == len).then_some(output)
}

fn unpack_zstd(input: &[u8], output: &mut [u8]) -> Option<usize> {
    let mut decoder = Decoder::new().ok()?;
    let mut input = InBuffer::around(input);
    let mut output = OutBuffer::around(output);
    loop {
        let (before_in, before_out) = (input.pos(), output.pos());
        let hint = decoder.run(&mut input, &mut output).ok()?;
        let stuck = (input.pos(), output.pos()) == (before_in, before_out);
        if hint == 0 || stuck || output.pos() == output.capacity() {
            return Some(output.pos());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n / 7 % 50).to_le_bytes()[0]).collect()
    }

    #[test]
    fn both_kinds_round_trip_with_garbage_behind() {
        for compression in [Compression::Zlib, Compression::Zstd] {
            let content = content(65536);
            let mut compressed = compress(compression, &content).unwrap();
            assert!(compressed.len() < 20000);
            compressed.extend([0xA5; 300]);
            let unpacked = decompress(compression, &compressed, 65536).unwrap();
            assert!(unpacked == content, "{compression:?}");
        }
    }

    #[test]
    fn garbage_and_short_data_are_refused() {
        for compression in [Compression::Zlib, Compression::Zstd] {
            assert_eq!(decompress(compression, &[0xFF; 512], 4096), None);
            let compressed = compress(compression, &content(4096)).unwrap();
            assert_eq!(decompress(compression, &compressed, 65536), None);
            let cut = &compressed[..compressed.len() / 2];
            assert_eq!(decompress(compression, cut, 4096), None);
        }
    }
}
