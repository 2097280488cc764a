//! Refcounts of 1 to 64 bits in a refcount block.

/// How wide refcounts are, as the header's `refcount_order`: 0 for 1 bit, 6 for 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefcountWidth {
    order: u32,
}

impl RefcountWidth {
    /// From the header's `refcount_order`, at most 6.
    pub fn from_order(order: u32) -> Option<Self> {
        (order <= 6).then_some(Self { order })
    }

    /// From a number of bits, a power of two up to 64.
    pub fn from_bits(bits: u64) -> Option<Self> {
        if bits.is_power_of_two() {
            Self::from_order(bits.trailing_zeros())
        } else {
            None
        }
    }

    /// The header's `refcount_order`.
    pub fn order(self) -> u32 {
        self.order
    }

    /// How many bits.
    pub fn bits(self) -> u64 {
        1 << self.order
    }

    /// The largest refcount.
    pub fn max(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// The byte of a block in which refcount `index` starts.
    pub fn byte_of(self, index: u64) -> u64 {
        index * self.bits() / 8
    }

    /// Refcount `index` of a block, or of a part of one that starts with a whole byte.
    ///
    /// # Panics
    /// Past the end of the block.
    pub fn get(self, block: &[u8], index: usize) -> u64 {
        if self.order < 3 {
            let (byte, shift) = self.place(index);
            return u64::from(block[byte] >> shift) & self.max();
        }
        let bytes = 1 << (self.order - 3);
        let mut word = [0; 8];
        word[8 - bytes..].copy_from_slice(&block[index * bytes..(index + 1) * bytes]);
        u64::from_be_bytes(word)
    }

    /// Sets refcount `index` of a block.
    ///
    /// # Panics
    /// Past the end of the block, or with a refcount that is too large.
    pub fn set(self, block: &mut [u8], index: usize, refcount: u64) {
        assert!(
            refcount <= self.max(),
            "refcount {refcount} needs more bits"
        );
        if self.order < 3 {
            let (byte, shift) = self.place(index);
            let [.., low] = refcount.to_be_bytes();
            let [.., mask] = self.max().to_be_bytes();
            block[byte] = block[byte] & !(mask << shift) | low << shift;
            return;
        }
        let bytes = 1 << (self.order - 3);
        let word = refcount.to_be_bytes();
        block[index * bytes..(index + 1) * bytes].copy_from_slice(&word[8 - bytes..]);
    }

    /// Where a refcount narrower than a byte is: bit 0 is the least significant.
    fn place(self, index: usize) -> (usize, u32) {
        let per_byte = 8 >> self.order;
        let shift = u32::try_from(index % per_byte).expect("below 8") << self.order;
        (index / per_byte, shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_keeps_its_neighbours() {
        for order in 0..=6 {
            let width = RefcountWidth::from_order(order).unwrap();
            let mut block = vec![0; 64];
            let count = 64 * 8 / usize::try_from(width.bits()).unwrap();
            for index in (0..count).step_by(2) {
                width.set(&mut block, index, width.max());
            }
            for index in 0..count {
                let expected = if index % 2 == 0 { width.max() } else { 0 };
                assert_eq!(width.get(&block, index), expected, "{width:?} {index}");
            }
            width.set(&mut block, 2, 0);
            assert_eq!(width.get(&block, 2), 0);
            assert_eq!(width.get(&block, 0), width.max());
        }
    }

    #[test]
    fn narrow_refcounts_start_at_the_lowest_bit() {
        let mut block = [0; 1];
        RefcountWidth::from_bits(2).unwrap().set(&mut block, 1, 3);
        assert_eq!(block, [0b1100]);
        let mut block = [0; 4];
        RefcountWidth::from_bits(16)
            .unwrap()
            .set(&mut block, 1, 0x102);
        assert_eq!(block, [0, 0, 1, 2]);
    }

    #[test]
    fn knows_the_widths() {
        assert!(RefcountWidth::from_order(7).is_none());
        assert!(RefcountWidth::from_bits(3).is_none());
        assert!(RefcountWidth::from_bits(128).is_none());
        assert_eq!(RefcountWidth::from_bits(64).unwrap().max(), u64::MAX);
        assert_eq!(RefcountWidth::from_bits(1).unwrap().max(), 1);
    }
}
