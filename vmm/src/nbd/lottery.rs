//! Chance, where any rule could be made use of: who sends away the oldest, or the newest, is told by
//! a flood of clients whom to send away.

use std::hash::{BuildHasher as _, RandomState};

/// One of so many places, none of them likelier than another; nothing if there are none.
pub(super) fn draw(places: usize) -> Option<usize> {
    // The keys are new each time, and nobody outside knows them.
    let number = RandomState::new().hash_one(places);
    number
        .checked_rem(places as u64)
        .and_then(|place| usize::try_from(place).ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_place_is_drawn_and_no_other() {
        assert_eq!(draw(0), None);
        assert_eq!(draw(1), Some(0));
        let mut drawn = BTreeSet::new();
        while drawn.len() < 64 {
            drawn.insert(draw(64).unwrap());
        }
        assert_eq!(drawn.last(), Some(&63));
    }
}
