//! New images.
//!
//! ```text
//!   header │ names │ journal │ bitmap, with room for a base as large as the disk │ hole ...
//!   header │ names │ journal │ bitmap of the disk │ table of its chunks │ places ... (compact)
//! ```

mod zero_blocks;

pub use zero_blocks::{ZeroBlocks, find_zero_blocks};

use super::format::{
    ALIGNMENT, BITMAP_BYTES_MAX, BLOCK_BITS, BLOCK_BITS_DEFAULT, BaseName, CHUNK_BITS, Chunks,
    ENTRY_BYTES, Header, NAMES_END, SIZE_BYTES_MAX, TABLE_BYTES_MAX, names_fit, other_names_offset,
};
use crate::journal::{REGION_BYTES_MAX, REGION_BYTES_MIN};
use crate::request::SECTOR_BYTES;
use crate::storage::{len, write};
use crate::{Error, Storage};

/// Enough for about a thousand flushes between two checkpoints.
const JOURNAL_BYTES: u64 = 4 << 20;
/// The disk begins at a multiple of this, so that blocks of the host's file system and of its
/// devices are blocks of the disk.
const DATA_ALIGNMENT: u64 = 1 << 20;

/// What an image is to stand on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// By what name it will be found.
    pub name: BaseName,
    /// How large its disk is.
    pub size_bytes: u64,
}

/// What an image is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// The size of the disk; rounded up to whole sectors of 512 bytes.
    pub size_bytes: u64,
    /// The size of a block as a power of two, 12 to 20.
    pub block_bits: u32,
    /// The size of a chunk as a power of two, from that of a block to 24, if the image is to be
    /// compact.
    pub chunk_bits: Option<u32>,
    /// What it stands on.
    pub base: Option<Base>,
    /// The size of the journal; absent: what suits most.
    pub journal_bytes: Option<u64>,
}

impl CreateOptions {
    /// An image that stands alone.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            block_bits: BLOCK_BITS_DEFAULT,
            chunk_bits: None,
            base: None,
            journal_bytes: None,
        }
    }

    /// What is wrong, if there can be no such image.
    pub fn check(&self) -> Result<(), String> {
        self.header().map(drop)
    }

    /// The header of such an image, or what is wrong.
    pub(super) fn header(&self) -> Result<Header, String> {
        let size_bytes = self
            .size_bytes
            .checked_next_multiple_of(SECTOR_BYTES)
            .filter(|size| (1..=SIZE_BYTES_MAX).contains(size))
            .ok_or("a disk has 512 bytes to 4 EiB")?;
        if !BLOCK_BITS.contains(&self.block_bits) {
            return Err("the block size must be a power of two from 4 KiB to 1 MiB".into());
        }
        if self
            .base
            .as_ref()
            .is_some_and(|base| !names_fit(&base.name))
        {
            return Err("the name of its base is too long".into());
        }
        let journal_bytes = self
            .journal_bytes
            .unwrap_or(JOURNAL_BYTES)
            .clamp(REGION_BYTES_MIN, REGION_BYTES_MAX)
            .next_multiple_of(ALIGNMENT);
        let journal = NAMES_END..NAMES_END + journal_bytes;
        let bitmap_bytes = size_bytes.div_ceil(1 << self.block_bits).div_ceil(8);
        let bitmap_bytes = bitmap_bytes.next_multiple_of(ALIGNMENT);
        if bitmap_bytes > BITMAP_BYTES_MAX {
            return Err("so large a disk needs larger blocks".into());
        }
        let bitmap = journal.end..journal.end + bitmap_bytes;
        let chunks = self.chunks(size_bytes, bitmap.end)?;
        let metadata_end = chunks
            .as_ref()
            .map_or(bitmap.end, |chunks| chunks.table.end);
        let base_bytes = self.base.as_ref().map_or(0, |base| base.size_bytes);
        Ok(Header {
            size_bytes,
            block_bits: self.block_bits,
            data_offset: metadata_end.next_multiple_of(DATA_ALIGNMENT),
            chunks,
            snapshots: None,
            base: self.base.as_ref().map(|base| base.name.clone()),
            base_bytes,
            covered_bytes: base_bytes.min(size_bytes),
            bitmap,
            journal,
            journal_identity: None,
            names_offset: match self.base {
                Some(_) => other_names_offset(0),
                None => 0,
            },
            compatible: 0,
        })
    }

    /// How a disk of `size_bytes` is kept, if the image is to be compact; its table is at `start`.
    fn chunks(&self, size_bytes: u64, start: u64) -> Result<Option<Chunks>, String> {
        let Some(bits) = self.chunk_bits else {
            return Ok(None);
        };
        if !CHUNK_BITS.contains(&bits) || bits < self.block_bits {
            return Err("the chunk size must be a power of two from a block to 16 MiB".into());
        }
        let table_bytes = size_bytes.div_ceil(1 << bits) * ENTRY_BYTES;
        if table_bytes > TABLE_BYTES_MAX {
            return Err("so large a disk cannot be compact".into());
        }
        let table = start..start + table_bytes.next_multiple_of(ALIGNMENT);
        Ok(Some(Chunks { bits, table }))
    }
}

/// Makes an image on `storage`, which holds nothing else: a file was emptied before. Blocks that are
/// zeros in the base need not come from there. Whatever happens, there is a whole image or none.
pub async fn create(
    storage: &impl Storage,
    options: &CreateOptions,
    zero_blocks: Option<&ZeroBlocks>,
) -> Result<Header, Error> {
    let unsupported = |problem| Error::Unsupported {
        path: storage.path().to_owned(),
        problem,
    };
    let header = options.header().map_err(unsupported)?;
    let before = storage.size_bytes();
    check_room(storage, &header)?;
    if before > 0 {
        // What was there must not be taken for an image while this one grows, nor for its content.
        write(storage, 0, vec![0; len(SECTOR_BYTES)]).await?;
        storage.sync().await?;
        let used = before.min(header.file_end());
        storage.write_zeroes(0, used, true).await?;
    }
    if before < header.file_end() {
        storage.set_len(header.file_end()).await?;
    }
    if let Some(zero_blocks) = zero_blocks.filter(|_| header.covered_bytes > 0) {
        let bytes = zero_blocks.bitmap(&header);
        write(storage, header.bitmap.start, bytes).await?;
    }
    let (sector, names) = header.encode();
    if !names.is_empty() {
        write(storage, header.names_offset, names).await?;
    }
    storage.sync().await?;
    write(storage, 0, sector).await?;
    storage.sync().await?;
    Ok(header)
}

/// Refuses a block device that is too small; one with a compact image has at least one place.
fn check_room(storage: &impl Storage, header: &Header) -> Result<(), Error> {
    let (needed, remedy) = match &header.chunks {
        Some(chunks) => (header.data_offset + chunks.bytes(), ""),
        None => (
            header.file_end(),
            "; a compact one (-o compact=on) takes less at first",
        ),
    };
    let size_bytes = storage.size_bytes();
    if storage.can_resize() || size_bytes >= needed {
        return Ok(());
    }
    Err(Error::Unsupported {
        path: storage.path().to_owned(),
        problem: format!(
            "has {size_bytes} bytes, too few: a flat image of such a disk takes {needed}{remedy}"
        ),
    })
}
