//! The header, its extensions and the name of the backing file: the first cluster.
//! Parts "Header" and "Header extensions" of the specification.

use std::mem::offset_of;
use std::ops::RangeInclusive;

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    BitmapsExtension, FormatError, L1_BYTES_MAX, Layout, REFCOUNT_TABLE_BYTES_MAX, RefcountWidth,
    SNAPSHOTS_MAX,
};

mod replace;

/// How every qcow2 image begins.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

const BACKING_NAME_BYTES_MAX: usize = 1023;
const V2_BYTES: usize = 72;
const V3_BYTES_MIN: usize = 104;

/// Features without which an image cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncompatibleFeatures(pub u64);

impl IncompatibleFeatures {
    /// Refcounts may be wrong.
    pub const DIRTY: u64 = 1;
    /// Anything may be wrong.
    pub const CORRUPT: u64 = 1 << 1;
    /// Data is in another file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// Compressed clusters are not zlib's.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries have subclusters.
    pub const EXTENDED_L2: u64 = 1 << 4;

    const NAMES: [(u64, &'static str); 5] = [
        (Self::DIRTY, "dirty bit"),
        (Self::CORRUPT, "corrupt bit"),
        (Self::DATA_FILE, "external data file"),
        (Self::COMPRESSION, "compression type"),
        (Self::EXTENDED_L2, "extended L2 entries"),
    ];

    /// Whether all of `bits` are set.
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// Sets or clears `bits`.
    #[must_use]
    pub fn with(self, bits: u64, set: bool) -> Self {
        Self(if set { self.0 | bits } else { self.0 & !bits })
    }

    fn unknown(self) -> u64 {
        Self::NAMES
            .iter()
            .fold(self.0, |left, (bit, _)| left & !bit)
    }
}

/// Features that may be ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompatibleFeatures(pub u64);

impl CompatibleFeatures {
    /// Refcounts may be written late, under the dirty bit.
    pub const LAZY_REFCOUNTS: u64 = 1;
}

/// Features whose bit who does not know them clears before writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AutoclearFeatures(pub u64);

impl AutoclearFeatures {
    /// The bitmaps extension is consistent.
    pub const BITMAPS: u64 = 1;
    /// The data file reads as a raw image.
    pub const DATA_FILE_RAW: u64 = 1 << 1;
    /// Those that we keep true.
    pub const KNOWN: u64 = Self::BITMAPS | Self::DATA_FILE_RAW;
}

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard frames.
    Zstd,
}

/// An extension that we keep without knowing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownExtension {
    /// Its type.
    pub kind: u32,
    /// Its data.
    pub data: Vec<u8>,
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
    /// Extensions that we do not know.
    pub unknown_extensions: Vec<UnknownExtension>,
    /// Fields after those that we know, which are kept.
    pub unknown_fields: Vec<u8>,
}

/// The fixed fields, as they are on the disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Fields {
    magic: [u8; 4],
    version: U32,
    backing_file_offset: U64,
    backing_file_size: U32,
    cluster_bits: U32,
    size: U64,
    crypt_method: U32,
    l1_size: U32,
    l1_table_offset: U64,
    refcount_table_offset: U64,
    refcount_table_clusters: U32,
    nb_snapshots: U32,
    snapshots_offset: U64,
    incompatible_features: U64,
    compatible_features: U64,
    autoclear_features: U64,
    refcount_order: U32,
    header_length: U32,
    compression_type: u8,
    padding: [u8; 7],
}

const FIELDS_BYTES: usize = 112;
const _: () = assert!(size_of::<Fields>() == FIELDS_BYTES);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct ExtensionHead {
    kind: U32,
    len: U32,
}

mod kind {
    pub(super) const END: u32 = 0;
    pub(super) const BACKING_FORMAT: u32 = 0xE279_2ACA;
    pub(super) const FEATURE_NAMES: u32 = 0x6803_F857;
    pub(super) const BITMAPS: u32 = 0x2385_2875;
    pub(super) const ENCRYPTION: u32 = 0x0537_BE77;
    pub(super) const DATA_FILE: u32 = 0x4441_5441;
}

/// An entry of the feature name table.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct FeatureName {
    kind: u8,
    bit: u8,
    name: [u8; 46],
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

    fn extensions(&self) -> Vec<(u32, Vec<u8>)> {
        let mut all = Vec::new();
        if let Some(format) = &self.backing_format {
            all.push((kind::BACKING_FORMAT, format.as_bytes().to_vec()));
        }
        if let Some(name) = &self.data_file {
            all.push((kind::DATA_FILE, name.as_bytes().to_vec()));
        }
        if let Some(bitmaps) = &self.bitmaps {
            all.push((kind::BITMAPS, bitmaps.encode()));
        }
        // As QEMU does: small clusters have room for a backing file's name or for these.
        if self.version >= 3 && self.layout.cluster_bits >= 12 {
            all.push((kind::FEATURE_NAMES, feature_names()));
        }
        for extension in &self.unknown_extensions {
            all.push((extension.kind, extension.data.clone()));
        }
        all
    }

    /// Takes in the extensions; returns the feature name table.
    fn parse_extensions(
        &mut self,
        cluster: &[u8],
        start: usize,
        end: usize,
    ) -> Result<Vec<u8>, FormatError> {
        let mut names = Vec::new();
        let mut at = start;
        let mut seen = Vec::new();
        while at + size_of::<ExtensionHead>() <= end {
            let offset = at as u64;
            let (head, rest) = ExtensionHead::ref_from_prefix(&cluster[at..end])
                .map_err(|_| FormatError::damaged(offset, "a header extension is cut off"))?;
            let (kind, len) = (head.kind.get(), head.len.get() as usize);
            if kind == kind::END {
                break;
            }
            let data = rest.get(..len).ok_or_else(|| {
                let problem = format!("header extension {kind:#x} reaches past its area");
                FormatError::damaged(offset, problem)
            })?;
            if seen.contains(&kind) {
                let problem = format!("header extension {kind:#x} appears twice");
                return Err(FormatError::damaged(offset, problem));
            }
            seen.push(kind);
            if kind == kind::FEATURE_NAMES {
                names = data.to_vec();
            } else {
                self.take_extension(offset, kind, data)?;
            }
            at += size_of::<ExtensionHead>() + len.next_multiple_of(8);
        }
        Ok(names)
    }

    fn take_extension(&mut self, offset: u64, kind: u32, data: &[u8]) -> Result<(), FormatError> {
        let text = |what: &str| {
            String::from_utf8(data.to_vec())
                .map_err(|_| FormatError::damaged(offset, format!("{what} is not UTF-8")))
        };
        match kind {
            kind::BACKING_FORMAT => self.backing_format = Some(text("the backing file's format")?),
            kind::DATA_FILE => self.data_file = Some(text("the data file's name")?),
            kind::BITMAPS => self.bitmaps = Some(BitmapsExtension::parse(offset, data)?),
            // Without an encryption method it means nothing.
            kind::ENCRYPTION => {
                return Err(FormatError::damaged(
                    offset,
                    "there is an encryption header, but no encryption",
                ));
            }
            _ => self.unknown_extensions.push(UnknownExtension {
                kind,
                data: data.to_vec(),
            }),
        }
        Ok(())
    }

    fn check_features(&self, names: &[u8]) -> Result<(), FormatError> {
        let unknown = self.incompatible.unknown();
        if unknown != 0 {
            let listed: Vec<_> = (0..64u8)
                .filter(|bit| unknown >> bit & 1 == 1)
                .map(|bit| name_of(bit, names))
                .collect();
            let problem = format!(
                "needs features that are not supported: {}",
                listed.join(", ")
            );
            return Err(FormatError::unsupported(72, problem));
        }
        let damaged = |offset, problem: &str| Err(FormatError::damaged(offset, problem));
        if self.layout.extended_l2 && self.layout.cluster_bits < 14 {
            return damaged(20, "extended L2 entries need clusters of 16 KiB or more");
        }
        if self.autoclear.0 & AutoclearFeatures::DATA_FILE_RAW != 0 && !self.has_data_file() {
            return damaged(
                88,
                "the data file is said to be raw, but there is no data file",
            );
        }
        if self.has_data_file() && self.snapshots != 0 {
            return damaged(60, "an image with a data file has internal snapshots");
        }
        Ok(())
    }

    /// The tables that the header names must lie on clusters, in the file, and not be absurd.
    fn check_tables(&self, file_bytes: u64) -> Result<(), FormatError> {
        let snapshots_bytes = u64::from(self.snapshots) * 40;
        let needed = self.layout.l1_entries_for(self.size_bytes);
        let damaged = |offset, problem: String| Err(FormatError::damaged(offset, problem));
        if needed * 8 > L1_BYTES_MAX || self.l1_bytes() > L1_BYTES_MAX {
            return damaged(36, "the L1 table is larger than 32 MiB".into());
        }
        if u64::from(self.l1_entries) < needed {
            return damaged(36, "the L1 table is too small for the disk".into());
        }
        let table_bytes = self.refcount_table_bytes();
        if table_bytes == 0 || table_bytes > REFCOUNT_TABLE_BYTES_MAX {
            return damaged(
                56,
                "the refcount table is empty or larger than 8 MiB".into(),
            );
        }
        if self.snapshots > SNAPSHOTS_MAX {
            return damaged(60, format!("more than {SNAPSHOTS_MAX} snapshots"));
        }
        for (field, what, start, bytes) in [
            (40, "L1 table", self.l1_offset, self.l1_bytes()),
            (
                48,
                "refcount table",
                self.refcount_table_offset,
                table_bytes,
            ),
            (64, "snapshot table", self.snapshots_offset, snapshots_bytes),
        ] {
            if bytes == 0 {
                continue;
            }
            let end = start.checked_add(bytes);
            if !self.layout.is_aligned(start) {
                return damaged(field, format!("the {what} does not start on a cluster"));
            }
            if start == 0
                || end.is_none_or(|end| {
                    end > file_bytes.next_multiple_of(self.layout.cluster_bytes())
                })
            {
                return damaged(field, format!("the {what} is not within the file"));
            }
        }
        Ok(())
    }
}

impl Fields {
    const VERSIONS: RangeInclusive<u32> = 2..=3;

    fn of(bytes: &[u8]) -> Result<Self, FormatError> {
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
    fn check_kind(&self) -> Result<(), FormatError> {
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

    fn header_bytes(&self, cluster_bytes: usize) -> Result<usize, FormatError> {
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
    fn blank_absent(&mut self, header_bytes: usize) {
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

    fn header(&self) -> Result<Header, FormatError> {
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

    fn backing_file(&self, cluster: &[u8]) -> Result<Option<String>, FormatError> {
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

fn push_extension(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let head = ExtensionHead {
        kind: kind.into(),
        len: len.into(),
    };
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// The feature name table that we write: names of all incompatible features, and of the others we
/// know.
fn feature_names() -> Vec<u8> {
    let incompatible = IncompatibleFeatures::NAMES
        .iter()
        .map(|(bit, name)| (0, *bit, *name));
    let others = [
        (1, CompatibleFeatures::LAZY_REFCOUNTS, "lazy refcounts"),
        (2, AutoclearFeatures::BITMAPS, "bitmaps"),
        (2, AutoclearFeatures::DATA_FILE_RAW, "raw external data"),
    ];
    incompatible
        .chain(others)
        .flat_map(|(kind, bit, name)| {
            let mut entry = FeatureName {
                kind,
                bit: u8::try_from(bit.trailing_zeros()).unwrap_or(u8::MAX),
                name: [0; 46],
            };
            entry.name[..name.len()].copy_from_slice(name.as_bytes());
            entry.as_bytes().to_vec()
        })
        .collect()
}

/// What an image's own table calls an incompatible feature.
fn name_of(bit: u8, table: &[u8]) -> String {
    let named = table
        .chunks_exact(size_of::<FeatureName>())
        .filter_map(|entry| FeatureName::ref_from_bytes(entry).ok())
        .find(|entry| entry.kind == 0 && entry.bit == bit);
    let name = named.map(|entry| {
        let text = String::from_utf8_lossy(&entry.name);
        let text = text.trim_end_matches('\0');
        // It goes to a terminal.
        text.chars().filter(|c| !c.is_control()).collect::<String>()
    });
    match name {
        Some(name) if !name.is_empty() => name,
        _ => format!("unknown feature {bit}"),
    }
}

#[cfg(test)]
mod tests;
