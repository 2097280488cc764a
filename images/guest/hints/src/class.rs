//! What data can be worth.

use core::fmt;

const MIB: u64 = 1 << 20;

/// How much is gained by keeping data close, from the least on. What says nothing gets the class
/// of the size of its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// As data of a file of 10 MiB or more.
    #[default]
    Other,
    /// As data of a file of less than 10 MiB.
    Below10Mib,
    /// As data of a file of less than 5 MiB.
    Below5Mib,
    /// As data of a file of less than 2 MiB.
    Below2Mib,
    /// As data of a file of less than 1 MiB.
    Below1Mib,
    /// As the metadata of a file system.
    Metadata,
}

/// A number that is no class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoClass(pub u64);

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

    /// What data of a file of `size_bytes` has without a hint.
    pub fn of_file(size_bytes: u64) -> Self {
        match size_bytes {
            0..MIB => Self::Below1Mib,
            size if size < 2 * MIB => Self::Below2Mib,
            size if size < 5 * MIB => Self::Below5Mib,
            size if size < 10 * MIB => Self::Below10Mib,
            _ => Self::Other,
        }
    }
}

impl TryFrom<u64> for Class {
    type Error = NoClass;

    fn try_from(number: u64) -> Result<Self, NoClass> {
        let is_number = |class: &Self| *class as u64 == number;
        Self::ALL.into_iter().find(is_number).ok_or(NoClass(number))
    }
}

impl fmt::Display for NoClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is no class: they go from 0 to 5", self.0)
    }
}

impl core::error::Error for NoClass {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_interface() {
        for (number, class) in (0..).zip(Class::ALL) {
            assert_eq!(Class::try_from(number), Ok(class));
        }
        assert_eq!(Class::Metadata as u8, 5);
        assert_eq!(Class::try_from(6), Err(NoClass(6)));
    }

    #[test]
    fn a_file_counts_by_its_size() {
        let sizes = [0, MIB - 1, MIB, 2 * MIB, 5 * MIB, 10 * MIB - 1, 10 * MIB];
        let classes = sizes.map(|bytes| Class::of_file(bytes) as u8);
        assert_eq!(classes, [4, 4, 3, 2, 1, 1, 0]);
    }
}
