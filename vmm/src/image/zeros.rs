//! Finding zeros and differences in memory.

use std::ops::Range;

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // The comparison is the C library's, which is far faster than a loop over bytes.
    match bytes.split_first() {
        Some((first, rest)) => *first == 0 && rest == &bytes[..rest.len()],
        None => true,
    }
}

/// Where two pieces of memory of one length first differ.
pub(super) fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other {
        return None;
    }
    one.iter().zip(other).position(|(one, other)| one != other)
}

/// The blocks of `len` bytes for which `wanted` says so, each `unit` bytes long but the last, as
/// ranges of as many as follow each other.
pub(super) fn ranges(
    len: usize,
    unit: usize,
    wanted: impl Fn(Range<usize>) -> bool,
) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for start in (0..len).step_by(unit) {
        let block = start..len.min(start + unit);
        if !wanted(block.clone()) {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = block.end,
            _ => ranges.push(block),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_is_not_zero_wherever_it_is() {
        assert!(is_zero(&[]));
        for len in [1, 2, 511, 4096] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len - 1] {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn ranges_join_and_end_with_the_memory() {
        let bytes = [1, 0, 0, 0, 5, 0, 0, 7, 0, 0];
        let data = |unit| ranges(bytes.len(), unit, |range| !is_zero(&bytes[range]));
        assert_eq!(data(4), [Range { start: 0, end: 8 }]);
        assert_eq!(data(2), [0..2, 4..8]);
        assert_eq!(data(1), [0..1, 4..5, 7..8]);
        let last = ranges(10, 4, |range| range.start == 8);
        assert_eq!(last, [Range { start: 8, end: 10 }]);
    }

    #[test]
    fn the_first_difference_is_found() {
        assert_eq!(first_difference(b"abcd", b"abcd"), None);
        assert_eq!(first_difference(b"abcd", b"abxx"), Some(2));
    }
}
