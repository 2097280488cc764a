//! Memory for requests and replies that is used again.

use std::cell::RefCell;

use disk::Buffers;

/// Left before the data of a read, for the start of the reply. The data itself stays aligned.
pub(crate) const HEADROOM: usize = 4096;
/// Kept at most, for all who borrow together.
const KEPT_MAX_BYTES: usize = 32 << 20;
/// The smallest and the largest memory that is kept; all are powers of two, and the headroom that
/// replies to reads need before their data.
const SIZE_MIN: usize = 4 << 10;
const SIZE_MAX: usize = 4 << 20;
const SIZES: usize = (SIZE_MAX / SIZE_MIN).ilog2() as usize + 1;

/// Holds on to memory that it has given out. What nobody else holds any more, an operation in
/// flight included, is free.
pub(crate) struct Pool {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// By size.
    kept: [Vec<Buffers>; SIZES],
    kept_bytes: usize,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            state: RefCell::default(),
        }
    }

    /// Memory of `len` bytes, aligned to 4096, that holds whatever it held before.
    pub(crate) fn take(&self, len: usize) -> Buffers {
        let size = len.saturating_sub(HEADROOM).next_power_of_two();
        let size = size.max(SIZE_MIN);
        if size > SIZE_MAX {
            return Buffers::zeroed(len);
        }
        let class = (size / SIZE_MIN).ilog2() as usize;
        let size = size + HEADROOM;
        let mut state = self.state.borrow_mut();
        let kept = &state.kept[class];
        if let Some(free) = kept.iter().find(|buffers| buffers.is_unique()) {
            return free.slice(0..len);
        }
        let buffers = Buffers::zeroed(size);
        if state.kept_bytes + size <= KEPT_MAX_BYTES {
            state.kept_bytes += size;
            state.kept[class].push(buffers.clone());
        }
        buffers.slice(0..len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(buffers: &Buffers) -> usize {
        buffers.segments().next().unwrap().iov_base.addr()
    }

    #[test]
    fn memory_is_used_again_once_nobody_holds_a_part_of_it() {
        let pool = Pool::new();
        let first = pool.take(5000);
        let part = first.slice(4000..5000);
        let place = address(&first);
        drop(first);
        assert_ne!(address(&pool.take(5000)), place, "a part of it is in use");
        drop(part);
        assert_eq!(address(&pool.take(8000)), place);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = Pool::new();
        let taken: Vec<_> = (0..20).map(|_| pool.take(4 << 20)).collect();
        drop(taken);
        pool.take(100 << 20);
        let kept_bytes = pool.state.borrow().kept_bytes;
        assert!(
            (16 << 20..=KEPT_MAX_BYTES).contains(&kept_bytes),
            "{kept_bytes}"
        );
    }
}
