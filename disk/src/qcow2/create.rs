//! New images: the least that a qcow2 file needs.
//!
//! ```text
//!   header │ refcount table │ refcount blocks │ L1 table
//! ```

use super::file;
use super::format::{
    AutoclearFeatures, CompatibleFeatures, Compression, Header, IncompatibleFeatures, L1_BYTES_MAX,
    Layout, REFCOUNT_TABLE_BYTES_MAX, RefcountWidth,
};
use crate::request::SECTOR_BYTES;
use crate::storage::write_zeros;
use crate::{Error, Storage};

/// What an image is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// The size of the disk; rounded up to whole sectors of 512 bytes.
    pub size_bytes: u64,
    /// 2 or 3.
    pub version: u32,
    /// The cluster size as a power of two, 9 to 21.
    pub cluster_bits: u32,
    /// 1, 2, 4, 8, 16, 32 or 64; 16 with version 2.
    pub refcount_bits: u64,
    /// Whether clusters have subclusters.
    pub extended_l2: bool,
    /// Whether refcounts may be written late, under the dirty bit.
    pub lazy_refcounts: bool,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// The name and the format of the backing file.
    pub backing: Option<(String, String)>,
    /// The name of the external data file, and whether it reads as a raw image of the disk, for
    /// which all clusters must be preallocated.
    pub data_file: Option<(String, bool)>,
}

impl CreateOptions {
    /// What `qemu-img create` makes of a size alone.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            version: 3,
            cluster_bits: 16,
            refcount_bits: 16,
            extended_l2: false,
            lazy_refcounts: false,
            compression: Compression::Zlib,
            backing: None,
            data_file: None,
        }
    }

    /// The header of such an image, all but where things are, or what is wrong.
    fn header(&self) -> Result<Header, String> {
        let layout = self.layout()?;
        self.check_version()?;
        self.check_names()?;
        let size_bytes = self
            .size_bytes
            .checked_next_multiple_of(SECTOR_BYTES)
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or("a disk is smaller than 8 EiB")?;
        Ok(Header {
            version: self.version,
            layout,
            size_bytes,
            l1_entries: l1_entries(layout, size_bytes)?,
            l1_offset: 0,
            refcount_table_offset: 0,
            refcount_table_clusters: 0,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: self.incompatible(),
            compatible: self.compatible(),
            autoclear: self.autoclear(),
            compression: self.compression,
            backing_file: self.backing.as_ref().map(|(name, _)| name.clone()),
            backing_format: self.backing.as_ref().map(|(_, format)| format.clone()),
            data_file: self.data_file.as_ref().map(|(name, _)| name.clone()),
            bitmaps: None,
            journal: None,
            unknown_extensions: Vec::new(),
            unknown_fields: Vec::new(),
        })
    }

    fn layout(&self) -> Result<Layout, String> {
        if !Layout::CLUSTER_BITS.contains(&self.cluster_bits) {
            return Err("the cluster size must be a power of two from 512 bytes to 2 MiB".into());
        }
        if self.extended_l2 && self.cluster_bits < 14 {
            return Err("extended L2 entries need clusters of 16 KiB or more".into());
        }
        let refcount_width = RefcountWidth::from_bits(self.refcount_bits).ok_or_else(|| {
            let bits = self.refcount_bits;
            format!("refcounts have 1, 2, 4, 8, 16, 32 or 64 bits, not {bits}")
        })?;
        Ok(Layout {
            cluster_bits: self.cluster_bits,
            extended_l2: self.extended_l2,
            refcount_width,
        })
    }

    fn check_version(&self) -> Result<(), String> {
        match self.version {
            2 => {}
            3 => return Ok(()),
            version => return Err(format!("qcow2 has versions 2 and 3, not {version}")),
        }
        let needs = [
            (self.refcount_bits != 16, "refcounts of other than 16 bits"),
            (self.extended_l2, "extended L2 entries"),
            (self.lazy_refcounts, "lazy refcounts"),
            (self.compression != Compression::Zlib, "zstd compression"),
            (self.data_file.is_some(), "an external data file"),
        ];
        match needs.iter().find(|(needed, _)| *needed) {
            Some((_, what)) => Err(format!("version 2 has not {what}; choose version 3")),
            None => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), String> {
        let backing = self.backing.as_ref().map(|(name, _)| name);
        let data_file = self.data_file.as_ref().map(|(name, _)| name);
        for (what, name) in [("backing file", backing), ("data file", data_file)] {
            if name.is_some_and(|name| name.is_empty() || name.len() > 1023) {
                return Err(format!("the name of a {what} has 1 to 1023 bytes"));
            }
        }
        if self.backing.is_some() && matches!(self.data_file, Some((_, true))) {
            return Err("a raw data file cannot have a backing file beneath it".into());
        }
        Ok(())
    }

    fn compatible(&self) -> CompatibleFeatures {
        CompatibleFeatures(if self.lazy_refcounts {
            CompatibleFeatures::LAZY_REFCOUNTS
        } else {
            0
        })
    }

    fn autoclear(&self) -> AutoclearFeatures {
        AutoclearFeatures(match self.data_file {
            Some((_, true)) => AutoclearFeatures::DATA_FILE_RAW,
            _ => 0,
        })
    }

    fn incompatible(&self) -> IncompatibleFeatures {
        IncompatibleFeatures::default()
            .with(IncompatibleFeatures::EXTENDED_L2, self.extended_l2)
            .with(IncompatibleFeatures::DATA_FILE, self.data_file.is_some())
            .with(
                IncompatibleFeatures::COMPRESSION,
                self.compression != Compression::Zlib,
            )
    }
}

fn l1_entries(layout: Layout, size_bytes: u64) -> Result<u32, String> {
    let entries = layout.l1_entries_for(size_bytes).max(1);
    match u32::try_from(entries) {
        Ok(fitting) if entries * 8 <= L1_BYTES_MAX => Ok(fitting),
        _ => {
            let max = L1_BYTES_MAX / 8 * layout.l2_coverage_bytes();
            let cluster = layout.cluster_bytes();
            Err(format!(
                "a disk of {size_bytes} bytes is too large for clusters of {cluster} bytes: \
                 the most is {max}; choose a larger cluster size"
            ))
        }
    }
}

/// How many clusters each part of a new image has. They lie in this order, behind the header's.
struct Parts {
    refcount_table: u64,
    refcount_blocks: u64,
    l1: u64,
}

impl Parts {
    /// The refcounts cover themselves, so this goes up until it fits.
    fn of(header: &Header) -> Self {
        let layout = header.layout;
        let mut parts = Self {
            refcount_table: 1,
            refcount_blocks: 1,
            l1: layout.clusters_for(header.l1_bytes()),
        };
        loop {
            let blocks = parts.total().div_ceil(layout.refcount_block_entries());
            let table = layout.clusters_for(blocks * 8);
            if (blocks, table) == (parts.refcount_blocks, parts.refcount_table) {
                return parts;
            }
            (parts.refcount_blocks, parts.refcount_table) = (blocks, table);
        }
    }

    fn total(&self) -> u64 {
        1 + self.refcount_table + self.refcount_blocks + self.l1
    }
}

/// Makes an image on `storage`, which holds nothing else: a file was emptied before. Whatever
/// happens, there is a whole image or none. Returns its header.
pub async fn create(storage: &impl Storage, options: &CreateOptions) -> Result<Header, Error> {
    let unsupported = |problem| Error::Unsupported {
        path: storage.path().to_owned(),
        problem,
    };
    let mut header = options.header().map_err(unsupported)?;
    let parts = Parts::of(&header);
    place(&mut header, &parts).map_err(unsupported)?;
    let layout = header.layout;
    let mut first = header
        .encode()
        .map_err(super::format::FormatError::at(storage.path()))?;
    first.resize(file::len(layout.cluster_bytes()), 0);
    if storage.size_bytes() > 0 {
        // What was there must not be taken for an image while this one grows.
        file::write(storage, 0, vec![0; file::len(SECTOR_BYTES)]).await?;
        storage.sync().await?;
    }
    write_refcounts(storage, &header, &parts).await?;
    let l1_end = header.l1_offset + (parts.l1 << layout.cluster_bits);
    write_zeros(storage, header.l1_offset..l1_end).await?;
    storage.sync().await?;
    file::write(storage, 0, first).await?;
    storage.sync().await?;
    Ok(header)
}

/// Says in the header where the parts are.
fn place(header: &mut Header, parts: &Parts) -> Result<(), String> {
    let layout = header.layout;
    header.refcount_table_clusters =
        u32::try_from(parts.refcount_table).map_err(|error| error.to_string())?;
    if header.refcount_table_bytes() > REFCOUNT_TABLE_BYTES_MAX {
        return Err("the refcount table would be larger than 8 MiB; choose a larger cluster size or narrower refcounts".into());
    }
    header.refcount_table_offset = layout.cluster_bytes();
    header.l1_offset = (1 + parts.refcount_table + parts.refcount_blocks) << layout.cluster_bits;
    Ok(())
}

async fn write_refcounts(
    storage: &impl Storage,
    header: &Header,
    parts: &Parts,
) -> Result<(), Error> {
    let layout = header.layout;
    let blocks_offset = (1 + parts.refcount_table) << layout.cluster_bits;
    let mut table = Vec::new();
    for n in 0..parts.refcount_blocks {
        let offset = blocks_offset + (n << layout.cluster_bits);
        table.extend_from_slice(&offset.to_be_bytes());
        let mut block = vec![0; file::len(layout.cluster_bytes())];
        let start = n * layout.refcount_block_entries();
        let used = (parts.total() - start).min(layout.refcount_block_entries());
        for index in 0..file::len(used) {
            layout.refcount_width.set(&mut block, index, 1);
        }
        file::write(storage, offset, block).await?;
    }
    table.resize(file::len(header.refcount_table_bytes()), 0);
    file::write(storage, header.refcount_table_offset, table).await
}

#[cfg(test)]
mod tests;
