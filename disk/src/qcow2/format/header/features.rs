//! Feature bits, and their names.
//! Parts "Header" and "Feature name table" of the specification.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

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

    /// What is newest is in a journal, which is in the file: microvm's own. No image that was
    /// closed has it.
    pub const JOURNAL: u64 = 1 << 60;

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

    pub(super) fn unknown(self) -> u64 {
        Self::NAMES
            .iter()
            .fold(self.0 & !Self::JOURNAL, |left, (bit, _)| left & !bit)
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
/// An entry of the feature name table.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct FeatureName {
    kind: u8,
    bit: u8,
    name: [u8; 46],
}

/// The feature name table that we write: names of all incompatible features, and of the others we
/// know.
pub(super) fn feature_names() -> Vec<u8> {
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
        .flat_map(|(kind, bit, name)| entry(kind, bit, name))
        .collect()
}
/// The feature name table of an image with a journal, which says what keeps others out, and what it
/// takes to let them in.
pub(super) fn journal_feature_name() -> Vec<u8> {
    entry(
        0,
        IncompatibleFeatures::JOURNAL,
        "microvm journal (close it with microvm)",
    )
}

fn entry(kind: u8, bit: u64, name: &str) -> Vec<u8> {
    let mut entry = FeatureName {
        kind,
        bit: u8::try_from(bit.trailing_zeros()).unwrap_or(u8::MAX),
        name: [0; 46],
    };
    entry.name[..name.len()].copy_from_slice(name.as_bytes());
    entry.as_bytes().to_vec()
}

/// What an image's own table calls an incompatible feature.
pub(super) fn name_of(bit: u8, table: &[u8]) -> String {
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
