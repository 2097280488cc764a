//! Data that can be told again: each 8-byte word follows from a seed and its place.

use crate::memory;

/// A generator of numbers that look random (xorshift64, Marsaglia 2003).
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        // The state must not be zero.
        Self(seed | 1 << 63)
    }

    /// The next number.
    #[expect(
        clippy::should_implement_trait,
        reason = "an endless source, not a sequence"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Fills `len_bytes` at `address`, a multiple of 8, with the pattern of `seed`.
pub fn fill(address: u64, len_bytes: u64, seed: u64) {
    let mut random = Random::new(seed);
    for offset in (0..len_bytes).step_by(8) {
        memory::write(address + offset, random.next());
    }
}

/// Whether `len_bytes` at `address` hold the pattern of `seed`.
pub fn holds(address: u64, len_bytes: u64, seed: u64) -> bool {
    let mut random = Random::new(seed);
    (0..len_bytes)
        .step_by(8)
        .all(|offset| memory::read::<u64>(address + offset) == random.next())
}

/// Fills `len_bytes` at `address`, a multiple of 8, with one number.
pub fn fill_with(address: u64, len_bytes: u64, word: u64) {
    for offset in (0..len_bytes).step_by(8) {
        memory::write(address + offset, word);
    }
}

/// Whether `len_bytes` at `address` are all zero.
pub fn is_zero(address: u64, len_bytes: u64) -> bool {
    (0..len_bytes)
        .step_by(8)
        .all(|offset| memory::read::<u64>(address + offset) == 0)
}
