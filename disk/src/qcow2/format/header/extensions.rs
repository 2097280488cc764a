//! Header extensions: between the header and the name of the backing file.
//! Part "Header extensions" of the specification.

use std::ops::Range;

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::features::feature_names;
use super::{AutoclearFeatures, BitmapsExtension, FormatError, Header, IncompatibleFeatures};
use crate::journal::Identity;

/// An extension that we keep without knowing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownExtension {
    /// Its type.
    pub kind: u32,
    /// Its data.
    pub data: Vec<u8>,
}
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct ExtensionHead {
    pub(super) kind: U32,
    pub(super) len: U32,
}

pub(super) mod kind {
    pub(in super::super) const END: u32 = 0;
    pub(in super::super) const BACKING_FORMAT: u32 = 0xE279_2ACA;
    pub(in super::super) const FEATURE_NAMES: u32 = 0x6803_F857;
    pub(in super::super) const BITMAPS: u32 = 0x2385_2875;
    pub(in super::super) const ENCRYPTION: u32 = 0x0537_BE77;
    pub(in super::super) const DATA_FILE: u32 = 0x4441_5441;
    /// microvm's own: "mvjl".
    pub(in super::super) const JOURNAL: u32 = 0x6D76_6A6C;
}

/// Where the journal is, in an image that has one.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct JournalFields {
    offset: U64,
    bytes: U64,
    identity: Identity,
}
const _: () = assert!(size_of::<JournalFields>() == 32);

/// Follows [`JournalFields`] if clusters may be shared.
const SHARED: [u8; 8] = 1_u64.to_be_bytes();

/// Where the journal of an image is that is open for writing, or was not closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalExtension {
    /// Its bytes in the file, on whole clusters.
    pub region: Range<u64>,
    /// What tells it from journals that were there before.
    pub identity: Identity,
    /// Whether clusters of the disk may share their place, so that after a power cut the last one that
    /// is left in one may still say that it is shared.
    pub shared: bool,
}

impl JournalExtension {
    pub(super) fn encode(&self) -> Vec<u8> {
        let fields = JournalFields {
            offset: self.region.start.into(),
            bytes: (self.region.end - self.region.start).into(),
            identity: self.identity,
        };
        let mut data = fields.as_bytes().to_vec();
        if self.shared {
            data.extend(SHARED);
        }
        data
    }

    fn parse(data: &[u8]) -> Option<Self> {
        let (data, shared) = match data.strip_suffix(&SHARED) {
            Some(fields) if fields.len() == size_of::<JournalFields>() => (fields, true),
            _ => (data, false),
        };
        let fields = JournalFields::read_from_bytes(data).ok()?;
        let start = fields.offset.get();
        Some(Self {
            region: start..start.checked_add(fields.bytes.get())?,
            identity: fields.identity,
            shared,
        })
    }
}

impl Header {
    pub(super) fn extensions(&self) -> Vec<(u32, Vec<u8>)> {
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
    pub(super) fn parse_extensions(
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
            kind::BITMAPS => match BitmapsExtension::parse(offset, data) {
                Ok(bitmaps) => self.bitmaps = Some(bitmaps),
                // Nobody says that they are consistent.
                Err(_) if self.autoclear.0 & AutoclearFeatures::BITMAPS == 0 => {}
                Err(error) => return Err(error),
            },
            // Without the feature it is what another program has kept of one, and means nothing.
            kind::JOURNAL if !self.incompatible.has(IncompatibleFeatures::JOURNAL) => {}
            kind::JOURNAL => {
                let journal = JournalExtension::parse(data);
                let problem = || FormatError::damaged(offset, "the journal's place makes no sense");
                self.journal = Some(journal.ok_or_else(problem)?);
            }
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
}

pub(super) fn push_extension(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let head = ExtensionHead {
        kind: kind.into(),
        len: len.into(),
    };
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}
