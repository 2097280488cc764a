//! What a header may not say.

use super::{
    AutoclearFeatures, FormatError, Header, IncompatibleFeatures, L1_BYTES_MAX,
    REFCOUNT_TABLE_BYTES_MAX, SNAPSHOTS_MAX, features,
};

impl Header {
    pub(super) fn check_features(&self, names: &[u8]) -> Result<(), FormatError> {
        let unknown = self.incompatible.unknown();
        if unknown != 0 {
            let listed: Vec<_> = (0..64u8)
                .filter(|bit| unknown >> bit & 1 == 1)
                .map(|bit| features::name_of(bit, names))
                .collect();
            let problem = format!(
                "needs features that are not supported: {}",
                listed.join(", ")
            );
            return Err(FormatError::unsupported(72, problem));
        }
        if self.incompatible.has(IncompatibleFeatures::JOURNAL) && self.journal.is_none() {
            return Err(FormatError::damaged(
                72,
                "there is said to be a journal, but not where",
            ));
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

    /// The tables that the header names must lie on clusters, in the file unless that is not closed,
    /// and not be absurd.
    pub(crate) fn check_tables(&self, file_bytes: u64) -> Result<(), FormatError> {
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
            let file_end = match self.journal {
                // Which may have what the file does not yet.
                Some(_) => u64::MAX,
                None => file_bytes.next_multiple_of(self.layout.cluster_bytes()),
            };
            if start == 0 || end.is_none_or(|end| end > file_end) {
                return damaged(field, format!("the {what} is not within the file"));
            }
        }
        Ok(())
    }
}
