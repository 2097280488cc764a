//! What blocks of a disk are to the guest that owns them.

use std::ops::{AddAssign, Index, IndexMut};

/// The unit in which blocks are told apart, in bytes: a page of the guest's memory, and the block
/// of the file systems that it meets.
pub const CLASS_BLOCK_BYTES: u64 = 4096;

const MIB: u64 = 1 << 20;

/// What all blocks of a request are, from the least to the most worth keeping close: a small file
/// costs a seek for few bytes, and metadata is on the way to all others. (The classes of Sky:
/// Arulraj et al., "Improving Virtualized Storage Performance with Sky", VEE 2017, table 2.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// A file of 10 MiB or more, or nothing is known.
    #[default]
    Other,
    /// A file of less than 10 MiB.
    Below10Mib,
    /// A file of less than 5 MiB.
    Below5Mib,
    /// A file of less than 2 MiB.
    Below2Mib,
    /// A file of less than 1 MiB.
    Below1Mib,
    /// The file system's own.
    Metadata,
}

impl Class {
    /// All of them, from the least on.
    pub const ALL: [Self; 6] = [
        Self::Other,
        Self::Below10Mib,
        Self::Below5Mib,
        Self::Below2Mib,
        Self::Below1Mib,
        Self::Metadata,
    ];

    /// Of the data of a file of `size_bytes`.
    pub fn of_file(size_bytes: u64) -> Self {
        match size_bytes {
            0..MIB => Self::Below1Mib,
            size if size < 2 * MIB => Self::Below2Mib,
            size if size < 5 * MIB => Self::Below5Mib,
            size if size < 10 * MIB => Self::Below10Mib,
            _ => Self::Other,
        }
    }

    /// What it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Below10Mib => "below 10 MiB",
            Self::Below5Mib => "below 5 MiB",
            Self::Below2Mib => "below 2 MiB",
            Self::Below1Mib => "below 1 MiB",
            Self::Metadata => "metadata",
        }
    }
}

/// What was done with the blocks of one class. Requests that failed count as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// What was done with the blocks of each class. A request for blocks of several counts once for
/// each run of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStatistics([ClassCounts; Class::ALL.len()]);

impl ClassStatistics {
    /// Whether there was nothing, for example because nobody tells blocks apart.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Index<Class> for ClassStatistics {
    type Output = ClassCounts;

    fn index(&self, class: Class) -> &ClassCounts {
        &self.0[class as usize]
    }
}

impl IndexMut<Class> for ClassStatistics {
    fn index_mut(&mut self, class: Class) -> &mut ClassCounts {
        &mut self.0[class as usize]
    }
}

impl AddAssign for ClassStatistics {
    fn add_assign(&mut self, other: Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            // No field is left out.
            let ClassCounts {
                reads,
                read_bytes,
                writes,
                written_bytes,
            } = other;
            own.reads += reads;
            own.read_bytes += read_bytes;
            own.writes += writes;
            own.written_bytes += written_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_by_its_size() {
        let classes =
            [0, MIB - 1, MIB, 2 * MIB, 5 * MIB, 10 * MIB - 1, 10 * MIB].map(Class::of_file);
        assert_eq!(
            classes,
            [
                Class::Below1Mib,
                Class::Below1Mib,
                Class::Below2Mib,
                Class::Below5Mib,
                Class::Below10Mib,
                Class::Below10Mib,
                Class::Other
            ]
        );
    }
}
