//! What is known of whether data is elsewhere on a disk already, or will be.

/// What whoever shares data that is alike should do with that of a request. (The hints of Mandal et
/// al., "Using Hints to Improve Inline Block-Layer Deduplication", FAST 2016.) It may be wrong, and
/// then costs speed or space, never content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DedupHint {
    /// Nothing is known.
    #[default]
    None,
    /// There is nothing like it: looking for that is of no use. Encrypted data is so.
    NoDedup,
    /// It is being copied: what is read now is about to be written elsewhere.
    Prefetch,
}

impl DedupHint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::NoDedup, Self::Prefetch];
}
