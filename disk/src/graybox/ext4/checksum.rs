//! CRC-32C as ext4 has it: the register itself, which is inverted neither before nor after. Chapter
//! "Checksums".

/// The register after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl Seed {
    /// Before the first byte.
    pub(super) const ALL_ONES: Self = Self(u32::MAX);

    pub(super) fn from_value(value: u32) -> Self {
        Self(value)
    }

    pub(super) fn value(self) -> u32 {
        self.0
    }
}

/// After `bytes` more.
pub(super) fn raw(seed: Seed, bytes: &[u8]) -> Seed {
    Seed(!crc32c::crc32c_append(!seed.0, bytes))
}
