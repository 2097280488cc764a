//! The header, its extensions and the name of the backing file: the first cluster.
//! Parts "Header" and "Header extensions" of the specification.

mod extensions;
mod features;
mod fields;
mod limits;
mod replace;

use std::mem::offset_of;

use zerocopy::{FromBytes, IntoBytes};

use super::{
    BitmapsExtension, FormatError, L1_BYTES_MAX, Layout, REFCOUNT_TABLE_BYTES_MAX, RefcountWidth,
    SNAPSHOTS_MAX,
};
pub use extensions::{JournalExtension, UnknownExtension};
use extensions::{kind, push_extension};
pub use features::{AutoclearFeatures, CompatibleFeatures, IncompatibleFeatures};
use fields::{FIELDS_BYTES, Fields, V2_BYTES};

/// How every qcow2 image begins.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard frames.
    Zstd,
}
/// The header with everything in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Cluster size, refcount width, kind of L2 entries.
    pub layout: Layout,
    /// The size of the disk.
    pub size_bytes: u64,
    /// Entries of the active L1 table.
    pub l1_entries: u32,
    /// Where the active L1 table is.
    pub l1_offset: u64,
    /// Where the refcount table is.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u32,
    /// The number of internal snapshots.
    pub snapshots: u32,
    /// Where the snapshot table is.
    pub snapshots_offset: u64,
    /// Incompatible features.
    pub incompatible: IncompatibleFeatures,
    /// Compatible features.
    pub compatible: CompatibleFeatures,
    /// Auto-clear features.
    pub autoclear: AutoclearFeatures,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// The backing file, as the image names it.
    pub backing_file: Option<String>,
    /// The backing file's format, `raw` for example.
    pub backing_format: Option<String>,
    /// The external data file, as the image names it.
    pub data_file: Option<String>,
    /// Where persistent bitmaps are.
    pub bitmaps: Option<BitmapsExtension>,
    /// Where the journal is, if the image has one.
    pub journal: Option<JournalExtension>,
    /// Extensions that we do not know.
    pub unknown_extensions: Vec<UnknownExtension>,
    /// Fields after those that we know, which are kept.
    pub unknown_fields: Vec<u8>,
}
impl Header {
    /// Where the incompatible features are: 8 bytes.
    pub const INCOMPATIBLE_OFFSET: u64 = offset_of!(Fields, incompatible_features) as u64;
    /// Where the auto-clear features are: 8 bytes.
    pub const AUTOCLEAR_OFFSET: u64 = offset_of!(Fields, autoclear_features) as u64;
    /// Where the refcount table's offset is, 8 bytes, and its number of clusters, 4 bytes.
    pub const REFCOUNT_TABLE_OFFSET: u64 = offset_of!(Fields, refcount_table_offset) as u64;

    /// How many bytes from the start of the file [`Header::parse`] needs, from the first
    /// [`Header::PREFIX_BYTES`] of it: a cluster.
    pub fn cluster_bytes(prefix: &[u8]) -> Result<u64, FormatError> {
        let fields = Fields::of(prefix)?;
        fields.check_kind()?;
        Ok(1 << fields.cluster_bits.get())
    }

    /// Enough for [`Header::cluster_bytes`].
    pub const PREFIX_BYTES: usize = FIELDS_BYTES;

    /// Parses the first cluster. `file_bytes` is the size of the file.
    pub fn parse(cluster: &[u8], file_bytes: u64) -> Result<Self, FormatError> {
        let mut fields = Fields::of(cluster)?;
        fields.check_kind()?;
        let header_bytes = fields.header_bytes(cluster.len())?;
        fields.blank_absent(header_bytes);
        let mut header = fields.header()?;
        header.unknown_fields = cluster
            .get(FIELDS_BYTES..header_bytes)
            .unwrap_or_default()
            .to_vec();
        header.backing_file = fields.backing_file(cluster)?;
        let extensions_end = match &header.backing_file {
            Some(_) => usize::try_from(fields.backing_file_offset.get()).unwrap_or(usize::MAX),
            None => cluster.len(),
        };
        let names = header.parse_extensions(cluster, header_bytes, extensions_end)?;
        header.check_features(&names)?;
        header.check_tables(file_bytes)?;
        Ok(header)
    }

    /// The bytes from the start of the file, all of which fit in a cluster, or why they do not.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = self.fields().as_bytes().to_vec();
        bytes.extend_from_slice(&self.unknown_fields);
        if self.version == 2 {
            bytes.truncate(V2_BYTES);
        }
        for (kind, data) in self.extensions() {
            push_extension(&mut bytes, kind, &data);
        }
        push_extension(&mut bytes, kind::END, &[]);
        if let Some(name) = &self.backing_file {
            let offset = bytes.len() as u64;
            bytes.extend_from_slice(name.as_bytes());
            // Version 2 may be shorter than all fields.
            let field = offset_of!(Fields, backing_file_offset);
            bytes[field..field + 8].copy_from_slice(&offset.to_be_bytes());
        }
        if bytes.len() as u64 > self.layout.cluster_bytes() {
            return Err(FormatError::unsupported(
                0,
                "the header, its extensions and the backing file's name do not fit in one cluster",
            ));
        }
        Ok(bytes)
    }

    /// Puts what can change while everything else stays where it is into the first sector of the
    /// file: sizes, features, and where tables are, but no extension.
    ///
    /// # Panics
    /// When it is shorter than a header.
    pub fn update(&self, sector: &mut [u8]) {
        let new = self.fields();
        let (fields, _) = Fields::mut_from_prefix(sector).expect("a whole sector");
        fields.size = new.size;
        fields.l1_size = new.l1_size;
        fields.l1_table_offset = new.l1_table_offset;
        fields.refcount_table_offset = new.refcount_table_offset;
        fields.refcount_table_clusters = new.refcount_table_clusters;
        fields.nb_snapshots = new.nb_snapshots;
        fields.snapshots_offset = new.snapshots_offset;
        if self.version >= 3 {
            fields.incompatible_features = new.incompatible_features;
            fields.compatible_features = new.compatible_features;
            fields.autoclear_features = new.autoclear_features;
        }
    }

    /// The header of the image once it has no journal.
    pub(crate) fn without_journal(self) -> Self {
        let incompatible = self.incompatible;
        Self {
            incompatible: incompatible.with(IncompatibleFeatures::JOURNAL, false),
            journal: None,
            ..self
        }
    }

    /// Whether there is an external data file.
    pub fn has_data_file(&self) -> bool {
        self.incompatible.has(IncompatibleFeatures::DATA_FILE)
    }

    /// Bytes of the active L1 table.
    pub fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_entries) * 8
    }

    /// Bytes of the refcount table.
    pub fn refcount_table_bytes(&self) -> u64 {
        u64::from(self.refcount_table_clusters) << self.layout.cluster_bits
    }

    fn fields(&self) -> Fields {
        let v3 = self.version >= 3;
        Fields {
            magic: MAGIC,
            version: self.version.into(),
            backing_file_offset: 0.into(),
            backing_file_size: u32::try_from(self.backing_file.as_ref().map_or(0, String::len))
                .unwrap_or(u32::MAX)
                .into(),
            cluster_bits: self.layout.cluster_bits.into(),
            size: self.size_bytes.into(),
            crypt_method: 0.into(),
            l1_size: self.l1_entries.into(),
            l1_table_offset: self.l1_offset.into(),
            refcount_table_offset: self.refcount_table_offset.into(),
            refcount_table_clusters: self.refcount_table_clusters.into(),
            nb_snapshots: self.snapshots.into(),
            snapshots_offset: self.snapshots_offset.into(),
            incompatible_features: self.incompatible.0.into(),
            compatible_features: self.compatible.0.into(),
            autoclear_features: self.autoclear.0.into(),
            refcount_order: self.layout.refcount_width.order().into(),
            header_length: u32::try_from(FIELDS_BYTES + self.unknown_fields.len())
                .unwrap_or(u32::MAX)
                .into(),
            compression_type: match self.compression {
                Compression::Zstd if v3 => 1,
                Compression::Zstd | Compression::Zlib => 0,
            },
            padding: [0; 7],
        }
    }
}

#[cfg(test)]
mod tests;
