//! Persistent bitmaps: the extension and the directory. Part "Bitmaps" of the specification.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FormatError, Layout};

/// QEMU's limit, and ours.
const BITMAPS_MAX: u32 = 65535;
/// QEMU's limit on a directory, and ours.
const DIRECTORY_BYTES_MAX: u64 = 64 << 20;

/// Where the bitmap directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapsExtension {
    /// The number of bitmaps, at least 1.
    pub count: u32,
    /// Bytes of the directory.
    pub directory_bytes: u64,
    /// Where the directory is.
    pub directory_offset: u64,
}

/// The extension as it is on the disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct ExtensionFields {
    nb_bitmaps: U32,
    reserved: U32,
    bitmap_directory_size: U64,
    bitmap_directory_offset: U64,
}

/// A directory entry's fixed fields, as they are on the disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct EntryFields {
    bitmap_table_offset: U64,
    bitmap_table_size: U32,
    flags: U32,
    kind: u8,
    granularity_bits: u8,
    name_size: U16,
    extra_data_size: U32,
}

/// A bitmap's flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BitmapFlags(pub u32);

impl BitmapFlags {
    /// May not say the truth.
    pub const IN_USE: u32 = 1;
    /// Every change of the disk must be noted.
    pub const AUTO: u32 = 2;
}

/// A bitmap in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapEntry {
    /// Where the bitmap table is.
    pub table_offset: u64,
    /// Entries of the bitmap table.
    pub table_entries: u32,
    /// What state it is in.
    pub flags: BitmapFlags,
    /// Its type; 1 for dirty tracking.
    pub kind: u8,
    /// How many bytes of the disk a bit is for, as a power of two.
    pub granularity_bits: u8,
    /// Its name.
    pub name: String,
    /// Data that we do not know.
    pub extra_data: Vec<u8>,
}

impl BitmapsExtension {
    pub(super) fn parse(offset: u64, data: &[u8]) -> Result<Self, FormatError> {
        let damaged = |problem| FormatError::damaged(offset, problem);
        let fields = ExtensionFields::ref_from_bytes(data)
            .map_err(|_| damaged("the bitmaps extension has a wrong length"))?;
        let (count, bytes) = (fields.nb_bitmaps.get(), fields.bitmap_directory_size.get());
        if count == 0 || count > BITMAPS_MAX {
            return Err(damaged("the bitmaps extension has no bitmaps, or too many"));
        }
        if bytes > DIRECTORY_BYTES_MAX || bytes < u64::from(count) * 24 {
            return Err(damaged(
                "the bitmap directory's size is not one it can have",
            ));
        }
        Ok(Self {
            count,
            directory_bytes: bytes,
            directory_offset: fields.bitmap_directory_offset.get(),
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let fields = ExtensionFields {
            nb_bitmaps: self.count.into(),
            reserved: 0.into(),
            bitmap_directory_size: self.directory_bytes.into(),
            bitmap_directory_offset: self.directory_offset.into(),
        };
        fields.as_bytes().to_vec()
    }

    /// Parses the directory, which is `bytes`.
    pub fn parse_directory(&self, bytes: &[u8]) -> Result<Vec<BitmapEntry>, FormatError> {
        let mut entries = Vec::new();
        let mut rest = bytes;
        for _ in 0..self.count {
            let offset = self.directory_offset + (bytes.len() - rest.len()) as u64;
            let (entry, len) = BitmapEntry::parse(offset, rest)?;
            entries.push(entry);
            rest = rest.get(len..).unwrap_or_default();
        }
        Ok(entries)
    }
}

impl BitmapEntry {
    /// Parses the entry at the start of `bytes`; also its length.
    fn parse(offset: u64, bytes: &[u8]) -> Result<(Self, usize), FormatError> {
        let cut_off = || FormatError::damaged(offset, "a bitmap directory entry is cut off");
        let (fields, rest) = EntryFields::ref_from_prefix(bytes).map_err(|_| cut_off())?;
        let extra_bytes = fields.extra_data_size.get() as usize;
        let name_bytes = usize::from(fields.name_size.get());
        let extra_data = rest.get(..extra_bytes).ok_or_else(cut_off)?.to_vec();
        let name = rest
            .get(extra_bytes..extra_bytes + name_bytes)
            .ok_or_else(cut_off)?;
        let name = String::from_utf8(name.to_vec())
            .map_err(|_| FormatError::damaged(offset, "a bitmap's name is not UTF-8"))?;
        let entry = Self {
            table_offset: fields.bitmap_table_offset.get(),
            table_entries: fields.bitmap_table_size.get(),
            flags: BitmapFlags(fields.flags.get()),
            kind: fields.kind,
            granularity_bits: fields.granularity_bits,
            name,
            extra_data,
        };
        let len = size_of::<EntryFields>() + extra_bytes + name_bytes;
        Ok((entry, len.next_multiple_of(8)))
    }

    /// Its bytes in the directory.
    pub fn encode(&self) -> Vec<u8> {
        let fields = EntryFields {
            bitmap_table_offset: self.table_offset.into(),
            bitmap_table_size: self.table_entries.into(),
            flags: self.flags.0.into(),
            kind: self.kind,
            granularity_bits: self.granularity_bits,
            name_size: u16::try_from(self.name.len()).unwrap_or(u16::MAX).into(),
            extra_data_size: u32::try_from(self.extra_data.len())
                .unwrap_or(u32::MAX)
                .into(),
        };
        let mut bytes = fields.as_bytes().to_vec();
        bytes.extend_from_slice(&self.extra_data);
        bytes.extend_from_slice(self.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// What an entry of a bitmap table points to.
    pub fn table_entry_offset(entry: u64) -> Option<u64> {
        match entry & 0x00FF_FFFF_FFFF_FE00 {
            0 => None,
            offset => Some(offset),
        }
    }

    /// Bytes of the bitmap table.
    pub fn table_bytes(&self) -> u64 {
        u64::from(self.table_entries) * 8
    }

    /// Whether the table could be that of a bitmap for a disk of any size that an image can have.
    pub fn is_plausible(&self, layout: Layout) -> bool {
        // QEMU's limit: 0x8000000 entries.
        self.table_entries <= 0x800_0000 && layout.is_aligned(self.table_offset)
    }
}
