//! Who gives way where there is no room: one of the peer that has the most, by lot. Of a rule, a
//! flood of clients could make use.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use super::peer::Peer;

/// Draws one of the clients that come from `peers`, and returns its place; nothing if there are
/// none.
pub(super) fn draw(peers: &[Peer]) -> Option<usize> {
    let crowd = crowd(peers);
    // The keys are new each time, and nobody outside knows them.
    let number = RandomState::new().hash_one(peers);
    let place = number.checked_rem(crowd.len() as u64)?;
    crowd.get(usize::try_from(place).ok()?).copied()
}

/// The places of those whose peer has the most of all.
fn crowd(peers: &[Peer]) -> Vec<usize> {
    let mut counts: BTreeMap<&Peer, usize> = BTreeMap::new();
    for peer in peers {
        *counts.entry(peer).or_default() += 1;
    }
    let most = counts.values().max().copied();
    let places = peers.iter().enumerate();
    places
        .filter(|(_, peer)| counts.get(peer).copied() == most)
        .map(|(place, _)| place)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn whoever_has_the_most_gives_way() {
        let [a, b, c] = [1, 2, 3].map(|pid| Peer::Process(pid, 0));
        assert_eq!(draw(&[]), None);
        assert_eq!(draw(&[a]), Some(0));
        assert_eq!(crowd(&[a, b, c, b]), [1, 3]);
        assert_eq!(crowd(&[c, b, c, b, a]), [0, 1, 2, 3]);
        let mut drawn = BTreeSet::new();
        while drawn.len() < 4 {
            drawn.extend(draw(&[c, b, c, b, a]));
        }
        assert_eq!(drawn.last(), Some(&3));
    }
}
