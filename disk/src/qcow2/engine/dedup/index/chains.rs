//! A hash table with chains that its entries hold themselves: its memory is known beforehand, however
//! often entries come and go. (Separate chaining: Knuth, The Art of Computer Programming, vol. 3, 6.4.)

/// The number of an entry, or of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Link(u32);

impl Link {
    /// So many entries can be told apart.
    pub(super) const MAX: u64 = u32::MAX as u64;

    /// To an entry, which is below [`Link::MAX`].
    pub(super) fn to(number: usize) -> Self {
        // 0 is none: a table of zeros takes no memory until it is used.
        Self(u32::try_from(number + 1).expect("below the most"))
    }

    /// Where it leads.
    pub(super) fn number(self) -> Option<usize> {
        usize::try_from(self.0.checked_sub(1)?).ok()
    }
}

/// The first entry of each chain.
pub(super) struct Chains {
    heads: Vec<Link>,
}

impl Chains {
    /// With so many heads, at least one.
    pub(super) fn new(heads: usize) -> Self {
        Self {
            heads: vec![Link::default(); heads],
        }
    }

    /// The entry in the chain of `hash` that `is_it`; `next` is what an entry leads to.
    pub(super) fn find(
        &self,
        hash: u64,
        is_it: impl Fn(usize) -> bool,
        next: impl Fn(usize) -> Link,
    ) -> Option<usize> {
        let mut link = self.heads[self.head(hash)];
        while let Some(number) = link.number() {
            if is_it(number) {
                return Some(number);
            }
            link = next(number);
        }
        None
    }

    /// Puts an entry first in its chain, and returns what it must lead to.
    pub(super) fn push(&mut self, hash: u64, number: usize) -> Link {
        let head = self.head(hash);
        std::mem::replace(&mut self.heads[head], Link::to(number))
    }

    /// Takes an entry out of its chain, in which it is; `next` is where one has what it leads to.
    pub(super) fn remove<E>(
        &mut self,
        hash: u64,
        number: usize,
        entries: &mut [E],
        next: impl Fn(&mut E) -> &mut Link,
    ) {
        let head = self.head(hash);
        let behind = std::mem::take(next(&mut entries[number]));
        let mut link = &mut self.heads[head];
        while let Some(at) = link.number().filter(|at| *at != number) {
            link = next(&mut entries[at]);
        }
        *link = behind;
    }

    /// Takes everything out.
    pub(super) fn clear(&mut self) {
        self.heads.fill(Link::default());
    }

    /// How much memory it takes.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.heads.capacity() * size_of::<Link>()
    }

    /// The chain of a hash, all of whose upper bits are random.
    fn head(&self, hash: u64) -> usize {
        let scaled = (u128::from(hash) * self.heads.len() as u128) >> 64;
        usize::try_from(scaled).expect("below the number of heads")
    }
}
