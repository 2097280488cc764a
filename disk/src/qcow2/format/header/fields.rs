//! The fixed fields of the header as they are on the disk.
//! Part "Header" of the specification.

use std::ops::RangeInclusive;

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    AutoclearFeatures, CompatibleFeatures, Compression, FormatError, Header, IncompatibleFeatures,
    Layout, MAGIC, RefcountWidth,
};

const BACKING_NAME_BYTES_MAX: usize = 1023;
pub(super) const V2_BYTES: usize = 72;
const V3_BYTES_MIN: usize = 104;

/// The fixed fields, as they are on the disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct Fields {
    pub(super) magic: [u8; 4],
    pub(super) version: U32,
    pub(super) backing_file_offset: U64,
    pub(super) backing_file_size: U32,
    pub(super) cluster_bits: U32,
    pub(super) size: U64,
    pub(super) crypt_method: U32,
    pub(super) l1_size: U32,
    pub(super) l1_table_offset: U64,
    pub(super) refcount_table_offset: U64,
    pub(super) refcount_table_clusters: U32,
    pub(super) nb_snapshots: U32,
    pub(super) snapshots_offset: U64,
    pub(super) incompatible_features: U64,
    pub(super) compatible_features: U64,
    pub(super) autoclear_features: U64,
    pub(super) refcount_order: U32,
    pub(super) header_length: U32,
    pub(super) compression_type: u8,
    pub(super) padding: [u8; 7],
}

pub(super) const FIELDS_BYTES: usize = 112;
const _: () = assert!(size_of::<Fields>() == FIELDS_BYTES);
impl Fields {
    const VERSIONS: RangeInclusive<u32> = 2..=3;

    pub(super) fn of(bytes: &[u8]) -> Result<Self, FormatError> {
        // A version 2 header may end a tiny file before our fields do.
        let mut whole = [0; FIELDS_BYTES];
        let len = bytes.len().min(FIELDS_BYTES);
        whole[..len].copy_from_slice(&bytes[..len]);
        if len < V2_BYTES {
            return Err(FormatError::damaged(0, "too short for a qcow2 header"));
        }
        Self::read_from_bytes(&whole)
            .map_err(|_| FormatError::damaged(0, "too short for a qcow2 header"))
    }

    /// What must hold before anything else makes sense.
    pub(super) fn check_kind(&self) -> Result<(), FormatError> {
        if self.magic != MAGIC {
            return Err(FormatError::damaged(0, "not a qcow2 image"));
        }
        let version = self.version.get();
        if !Self::VERSIONS.contains(&version) {
            let problem = format!("qcow2 version {version}; known: 2, 3");
            return Err(FormatError::unsupported(4, problem));
        }
        if !Layout::CLUSTER_BITS.contains(&self.cluster_bits.get()) {
            let problem = "the cluster size is not between 512 bytes and 2 MiB";
            return Err(FormatError::damaged(20, problem));
        }
        match self.crypt_method.get() {
            0 => Ok(()),
            1 => Err(FormatError::unsupported(
                32,
                "encrypted with AES, which is not supported",
            )),
            2 => Err(FormatError::unsupported(
                32,
                "encrypted with LUKS, which is not supported",
            )),
            method => {
                let problem = format!("encrypted with unknown method {method}");
                Err(FormatError::unsupported(32, problem))
            }
        }
    }

    pub(super) fn header_bytes(&self, cluster_bytes: usize) -> Result<usize, FormatError> {
        if self.version.get() == 2 {
            return Ok(V2_BYTES);
        }
        let len = self.header_length.get() as usize;
        if len < V3_BYTES_MIN || !len.is_multiple_of(8) || len > cluster_bytes {
            let problem = format!("{len} bytes is not a header's length");
            return Err(FormatError::damaged(100, problem));
        }
        Ok(len)
    }

    /// What a header of this length does not have is as if it were 0.
    pub(super) fn blank_absent(&mut self, header_bytes: usize) {
        if self.version.get() == 2 {
            self.refcount_order = 4.into();
            self.incompatible_features = 0.into();
            self.compatible_features = 0.into();
            self.autoclear_features = 0.into();
        }
        if header_bytes < FIELDS_BYTES {
            self.compression_type = 0;
        }
    }

    pub(super) fn header(&self) -> Result<Header, FormatError> {
        let incompatible = IncompatibleFeatures(self.incompatible_features.get());
        let order = self.refcount_order.get();
        let refcount_width = RefcountWidth::from_order(order)
            .ok_or_else(|| FormatError::damaged(96, format!("refcount order {order}")))?;
        Ok(Header {
            version: self.version.get(),
            layout: Layout {
                cluster_bits: self.cluster_bits.get(),
                extended_l2: incompatible.has(IncompatibleFeatures::EXTENDED_L2),
                refcount_width,
            },
            size_bytes: self.size.get(),
            l1_entries: self.l1_size.get(),
            l1_offset: self.l1_table_offset.get(),
            refcount_table_offset: self.refcount_table_offset.get(),
            refcount_table_clusters: self.refcount_table_clusters.get(),
            snapshots: self.nb_snapshots.get(),
            snapshots_offset: self.snapshots_offset.get(),
            incompatible,
            compatible: CompatibleFeatures(self.compatible_features.get()),
            autoclear: AutoclearFeatures(self.autoclear_features.get()),
            compression: self.compression(incompatible)?,
            backing_file: None,
            backing_format: None,
            data_file: None,
            bitmaps: None,
            journal: None,
            unknown_extensions: Vec::new(),
            unknown_fields: Vec::new(),
        })
    }

    fn compression(&self, features: IncompatibleFeatures) -> Result<Compression, FormatError> {
        let flagged = features.has(IncompatibleFeatures::COMPRESSION);
        match (self.compression_type, flagged) {
            (0, false) => Ok(Compression::Zlib),
            (1, true) => Ok(Compression::Zstd),
            (0, true) | (1.., false) => Err(FormatError::damaged(
                104,
                "the compression type and its feature bit contradict each other",
            )),
            (kind, true) => Err(FormatError::unsupported(
                104,
                format!("compression type {kind}; known: zlib, zstd"),
            )),
        }
    }

    pub(super) fn backing_file(&self, cluster: &[u8]) -> Result<Option<String>, FormatError> {
        let offset = self.backing_file_offset.get();
        let len = self.backing_file_size.get() as usize;
        if offset == 0 {
            return Ok(None);
        }
        if len > BACKING_NAME_BYTES_MAX {
            return Err(FormatError::damaged(
                16,
                "the backing file's name is longer than 1023 bytes",
            ));
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let name = start
            .checked_add(len)
            .and_then(|end| cluster.get(start..end))
            .ok_or_else(|| {
                FormatError::damaged(8, "the backing file's name is not in the first cluster")
            })?;
        match String::from_utf8(name.to_vec()) {
            Ok(name) if !name.is_empty() => Ok(Some(name)),
            Ok(_) => Ok(None),
            Err(_) => Err(FormatError::damaged(
                offset,
                "the backing file's name is not UTF-8",
            )),
        }
    }
}
