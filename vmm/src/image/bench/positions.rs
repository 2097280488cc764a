//! Where the requests of a benchmark go.

/// Gives the offset of one request after the other, in bytes.
pub(super) struct Positions {
    /// Of the first request.
    start: u64,
    /// From one request to the next, or between the places that random ones choose from.
    step: u64,
    /// The largest offset at which a request ends within the disk.
    last: u64,
    next: u64,
    random: Option<SplitMix64>,
}

/// Random numbers (Steele, Lea, Flood 2014) that are the same for the same seed, on any machine.
struct SplitMix64(u64);

impl Positions {
    /// For requests that all fit at `last`, and so at `start` before it. `step` is not 0.
    pub(super) fn new(start: u64, step: u64, last: u64, seed: Option<u64>) -> Self {
        Self {
            start,
            step,
            last,
            next: start,
            random: seed.map(SplitMix64),
        }
    }

    /// Where the next request goes. At the end of the disk they wrap around as those of
    /// `qemu-img bench` do: to what is left after a division by the last offset.
    pub(super) fn next(&mut self) -> u64 {
        if let Some(random) = &mut self.random {
            let places = (self.last - self.start) / self.step + 1;
            return self.start + random.next() % places * self.step;
        }
        let offset = self.next;
        let step = self.step.checked_rem(self.last);
        self.next = step.map_or(0, |step| (offset + step) % self.last);
        offset
    }
}

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first<const N: usize>(mut positions: Positions) -> [u64; N] {
        std::array::from_fn(|_| positions.next())
    }

    #[test]
    fn a_sequence_wraps_around_within_the_disk() {
        // A disk of 4 requests; of 1.
        let first_of_4 = first(Positions::new(0, 4096, 3 * 4096, None));
        assert_eq!(first_of_4, [0, 4096, 8192, 0, 4096]);
        assert_eq!(first(Positions::new(0, 4096, 0, None)), [0, 0, 0]);
        let odd = first(Positions::new(512, 1 << 20, 4096, None));
        assert_eq!(odd, [512, 512, 512]);
        let far = first(Positions::new(512, u64::MAX - 1023, 4096, None));
        assert_eq!(far, [512, 3584, 2560]);
    }

    #[test]
    fn random_places_are_all_of_them_and_nothing_else() {
        let mut positions = Positions::new(8192, 4096, 8192 + 5 * 4096 + 512, Some(7));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            seen.insert(positions.next());
        }
        let places: Vec<u64> = (2..8).map(|n| n * 4096).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), places);
    }

    #[test]
    fn a_seed_says_it_all() {
        let of = |seed| first::<8>(Positions::new(0, 512, 1 << 40, Some(seed)));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
