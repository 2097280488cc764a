//! What it takes to replace a header by writing one sector.

use std::mem::offset_of;
use std::ops::Range;

use super::extensions::{ExtensionHead, kind, push_extension};
use super::features::journal_feature_name;
use super::{Fields, FormatError, Header, V2_BYTES};
use zerocopy::{FromBytes, IntoBytes};

const SECTOR_BYTES: usize = 512;

impl Header {
    /// The bytes from the start of the file, within the first sector: without the names of
    /// features. The backing file's name is at `name_offset`.
    pub(crate) fn encode_first_sector(&self, name_offset: u64) -> Result<Vec<u8>, FormatError> {
        let mut bytes = self.fields().as_bytes().to_vec();
        bytes.extend_from_slice(&self.unknown_fields);
        if self.version == 2 {
            bytes.truncate(V2_BYTES);
        }
        let field = offset_of!(Fields, backing_file_offset);
        bytes[field..field + 8].copy_from_slice(&name_offset.to_be_bytes());
        let needed = self.extensions().into_iter();
        for (kind, data) in needed.filter(|(kind, _)| *kind != kind::FEATURE_NAMES) {
            push_extension(&mut bytes, kind, &data);
        }
        push_extension(&mut bytes, kind::END, &[]);
        if bytes.len() > SECTOR_BYTES {
            let problem = "the header and its extensions do not fit in a sector, \
                           so they cannot be changed safely; convert the image instead";
            return Err(FormatError::unsupported(0, problem));
        }
        Ok(bytes)
    }

    /// The first sector of an image with the journal that this header tells of: the extensions that
    /// matter, the journal's, and the name of its feature. The backing file's name is at
    /// `name_offset`. Absent if they do not fit.
    pub(crate) fn encode_journal_sector(&self, name_offset: u64) -> Option<Vec<u8>> {
        let mut bytes = self.fields().as_bytes().to_vec();
        bytes.extend_from_slice(&self.unknown_fields);
        let field = offset_of!(Fields, backing_file_offset);
        bytes[field..field + 8].copy_from_slice(&name_offset.to_be_bytes());
        let kept = self.extensions().into_iter();
        for (kind, data) in kept.filter(|(kind, _)| *kind != kind::FEATURE_NAMES) {
            push_extension(&mut bytes, kind, &data);
        }
        push_extension(&mut bytes, kind::JOURNAL, &self.journal.as_ref()?.encode());
        push_extension(&mut bytes, kind::FEATURE_NAMES, &journal_feature_name());
        push_extension(&mut bytes, kind::END, &[]);
        (bytes.len() <= SECTOR_BYTES).then_some(bytes)
    }

    /// Where the backing file's name is, in a first cluster that [`Header::parse`] has taken.
    pub(crate) fn backing_file_range(cluster: &[u8]) -> Range<u64> {
        let Ok(fields) = Fields::of(cluster) else {
            return 0..0;
        };
        let start = fields.backing_file_offset.get();
        start..start.saturating_add(fields.backing_file_size.get().into())
    }

    /// Where the extensions end, in a first cluster that [`Header::parse`] has taken.
    pub(crate) fn extensions_end(cluster: &[u8]) -> u64 {
        let fields = Fields::of(cluster);
        let start = fields.and_then(|fields| fields.header_bytes(cluster.len()));
        let mut at = start.unwrap_or(V2_BYTES);
        while let Some((head, _)) = cluster
            .get(at..)
            .and_then(|rest| ExtensionHead::ref_from_prefix(rest).ok())
        {
            at += size_of::<ExtensionHead>();
            if head.kind.get() == kind::END {
                break;
            }
            at += (head.len.get() as usize).next_multiple_of(8);
        }
        at as u64
    }
}
