//! The memory of a request: a scatter list and whatever keeps it alive.
//!
//! The memory may be a guest's, which changes while we look at it. So it is never lent as a slice:
//! it is copied, or its addresses go to the kernel.
#![expect(
    unsafe_code,
    reason = "owns raw memory that the kernel and a guest read and write"
)]

use std::alloc::{self, Layout};
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// The alignment of owned memory: enough for `O_DIRECT` on any device.
const ALIGNMENT: usize = 4096;

/// Memory of a request. Cheap to clone and to slice; clones share the memory.
#[derive(Clone)]
pub struct Buffers {
    segments: Segments,
    /// Bytes of `segments` that come before the first of ours.
    start: usize,
    len: usize,
    /// Keeps the memory mapped; never looked into.
    owner: Arc<dyn Any + Send + Sync>,
}

/// One piece of contiguous memory.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Segment(libc::iovec);

// SAFETY: a segment is an address and a length. Whoever dereferences it holds the owner, which is
// `Send + Sync`, and copies through raw pointers only.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

/// One segment is by far the most usual, and needs no allocation.
#[derive(Clone)]
enum Segments {
    One(Segment),
    Many(Arc<[Segment]>),
}

impl Segments {
    fn all(&self) -> &[Segment] {
        match self {
            Self::One(segment) => std::slice::from_ref(segment),
            Self::Many(segments) => segments,
        }
    }
}

impl Buffers {
    /// Owned memory of `len` zero bytes, aligned to 4096.
    pub fn zeroed(len: usize) -> Self {
        let memory = AlignedMemory::zeroed(len);
        let segment = Segment(libc::iovec {
            iov_base: memory.base.as_ptr().cast(),
            iov_len: len,
        });
        Self {
            segments: Segments::One(segment),
            start: 0,
            len,
            owner: Arc::new(memory),
        }
    }

    /// Owned memory holding a copy of `bytes`, aligned to 4096.
    pub fn from_vec(bytes: impl AsRef<[u8]>) -> Self {
        let buffers = Self::zeroed(bytes.as_ref().len());
        buffers.copy_from(bytes.as_ref());
        buffers
    }

    /// The memory at `segments`, one after the other, which `owner` keeps alive.
    ///
    /// # Safety
    /// The segments stay valid for reads and writes for as long as `owner` lives. Others may
    /// change the memory meanwhile, but no Rust reference to it may exist.
    ///
    /// # Panics
    /// When the lengths add up to more than the address space.
    pub unsafe fn from_raw(
        segments: impl IntoIterator<Item = libc::iovec>,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        let mut segments = segments.into_iter().filter(|s| s.iov_len > 0).map(Segment);
        let none = Segment(libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        });
        let first = segments.next().unwrap_or(none);
        let segments = match segments.next() {
            None => Segments::One(first),
            Some(second) => Segments::Many([first, second].into_iter().chain(segments).collect()),
        };
        let len = segments
            .all()
            .iter()
            .try_fold(0_usize, |sum, segment| sum.checked_add(segment.0.iov_len))
            .expect("the segments exceed the address space");
        Self {
            segments,
            start: 0,
            len,
            owner,
        }
    }

    /// The bytes of `parts`, one after the other, sharing their memory.
    pub fn concat(parts: impl IntoIterator<Item = Self>) -> Self {
        let parts: Arc<[Self]> = parts.into_iter().collect();
        let segments: Vec<_> = parts.iter().flat_map(Self::segments).collect();
        // SAFETY: the segments are those of the parts, which they own and which are the owner.
        unsafe { Self::from_raw(segments, Arc::new(parts)) }
    }

    /// Whether nobody else shares the memory: neither other buffers nor an operation in flight.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.owner) == 1
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes in `range`, sharing the memory.
    ///
    /// # Panics
    /// When `range` is not within `0..len`, as slices do.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "slice out of range"
        );
        Self {
            segments: self.segments.clone(),
            start: self.start + range.start,
            len: range.end - range.start,
            owner: Arc::clone(&self.owner),
        }
    }

    /// The contiguous pieces, in order; none is empty.
    pub fn segments(&self) -> impl Iterator<Item = libc::iovec> + '_ {
        let mut skip = self.start;
        let mut left = self.len;
        self.segments.all().iter().filter_map(move |segment| {
            let skipped = skip.min(segment.0.iov_len);
            skip -= skipped;
            let len = (segment.0.iov_len - skipped).min(left);
            left -= len;
            let base = segment.0.iov_base.cast::<u8>().wrapping_add(skipped).cast();
            (len > 0).then_some(libc::iovec {
                iov_base: base,
                iov_len: len,
            })
        })
    }

    /// Copies the bytes out to `target`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn copy_to(&self, target: &mut [u8]) {
        assert_eq!(target.len(), self.len, "lengths differ");
        self.for_each_piece(target, |_, _| ());
    }

    /// Copies the bytes out piece by piece: fills `piece` with those that come next, and shows it
    /// with where they start, until fewer are left than it takes.
    pub fn for_each_piece(&self, piece: &mut [u8], mut each: impl FnMut(usize, &[u8])) {
        if piece.is_empty() {
            return;
        }
        let (mut start, mut filled) = (0, 0);
        for segment in self.segments() {
            let mut done = 0;
            while done < segment.iov_len {
                let count = (segment.iov_len - done).min(piece.len() - filled);
                let target = &mut piece[filled..filled + count];
                let source = segment.iov_base.cast::<u8>().wrapping_add(done);
                // SAFETY: the segment is valid while `self.owner` lives, and has as much as
                // `target` takes. They do not overlap, for no reference to the segment's memory
                // exists.
                unsafe { ptr::copy_nonoverlapping(source, target.as_mut_ptr(), count) };
                (done, filled) = (done + count, filled + count);
                if filled == piece.len() {
                    each(start, piece);
                    (start, filled) = (start + filled, 0);
                }
            }
        }
    }

    /// Copies `source` in.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn copy_from(&self, source: &[u8]) {
        assert_eq!(source.len(), self.len, "lengths differ");
        let mut done = 0;
        for segment in self.segments() {
            let piece = &source[done..done + segment.iov_len];
            // SAFETY: as in `copy_to`.
            unsafe {
                ptr::copy_nonoverlapping(
                    piece.as_ptr(),
                    segment.iov_base.cast::<u8>(),
                    segment.iov_len,
                );
            }
            done += segment.iov_len;
        }
    }

    /// Sets every byte to `value`.
    pub fn fill(&self, value: u8) {
        for segment in self.segments() {
            // SAFETY: the segment is valid while `self.owner` lives.
            unsafe { ptr::write_bytes(segment.iov_base.cast::<u8>(), value, segment.iov_len) };
        }
    }

    /// Whether every byte is 0. Quick where it is not so.
    pub fn is_zero(&self) -> bool {
        self.segments().all(|segment| segment_is_zero(&segment))
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.copy_to(&mut bytes);
        bytes
    }

    /// Whether every piece starts at a multiple of `address` and is a multiple of `len` long.
    pub(crate) fn is_aligned(&self, address: usize, len: usize) -> bool {
        self.segments().all(|segment| {
            segment.iov_base.addr().is_multiple_of(address) && segment.iov_len.is_multiple_of(len)
        })
    }

    /// The same bytes with a segment list that holds nothing else, so that [`Buffers::iovecs`] can
    /// hand it to the kernel as it is.
    pub(crate) fn exact(self) -> Self {
        let whole: usize = self.segments.all().iter().map(|s| s.0.iov_len).sum();
        if self.start == 0 && self.len == whole {
            return self;
        }
        let segments: Vec<_> = self.segments().collect();
        // SAFETY: the segments are parts of ours, which the owner keeps valid.
        unsafe { Self::from_raw(segments, self.owner) }
    }

    /// The segment list of [`Buffers::exact`] buffers, at an address that stays while any clone
    /// with several segments lives.
    pub(crate) fn iovecs(&self) -> &[libc::iovec] {
        debug_assert_eq!(self.start, 0);
        let segments = self.segments.all();
        // SAFETY: `Segment` is a transparent wrapper of `iovec`.
        unsafe { std::slice::from_raw_parts(segments.as_ptr().cast(), segments.len()) }
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

fn segment_is_zero(segment: &libc::iovec) -> bool {
    let mut copy = [0_u8; 512];
    (0..segment.iov_len).step_by(copy.len()).all(|start| {
        let piece = &mut copy[..(segment.iov_len - start).min(512)];
        let source = segment.iov_base.cast::<u8>().wrapping_add(start);
        // SAFETY: the piece lies in the segment, which the caller keeps valid.
        unsafe { ptr::copy_nonoverlapping(source, piece.as_mut_ptr(), piece.len()) };
        piece.iter().fold(0, |sum, byte| sum | byte) == 0
    })
}

/// A zeroed allocation that is freed with its last user.
struct AlignedMemory {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the allocation has no thread affinity, and all access goes through raw copies.
unsafe impl Send for AlignedMemory {}
// SAFETY: as above.
unsafe impl Sync for AlignedMemory {}

impl AlignedMemory {
    fn zeroed(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), ALIGNMENT).expect("length fits memory");
        // SAFETY: the layout's size is at least 1.
        let base = unsafe { alloc::alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else {
            alloc::handle_alloc_error(layout)
        };
        Self { base, layout }
    }
}

impl Drop for AlignedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and freed only here.
        unsafe { alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scattered() -> (Buffers, Arc<Vec<u8>>) {
        let memory = Arc::new(b"abcdefghij".to_vec());
        let piece = |from: usize, len: usize| libc::iovec {
            iov_base: memory.as_ptr().wrapping_add(from).cast_mut().cast(),
            iov_len: len,
        };
        let pieces = [piece(0, 3), piece(9, 0), piece(4, 2), piece(6, 4)];
        let owner: Arc<Vec<u8>> = Arc::clone(&memory);
        // SAFETY: the pieces lie in `memory`, which is the owner; tests only read them.
        (unsafe { Buffers::from_raw(pieces, owner) }, memory)
    }

    #[test]
    fn slices_across_segments() {
        let (buffers, _memory) = scattered();
        assert_eq!(buffers.to_vec(), b"abcefghij");
        assert_eq!(buffers.slice(2..6).to_vec(), b"cefg");
        assert_eq!(buffers.slice(2..6).slice(1..3).to_vec(), b"ef");
        assert_eq!(buffers.slice(4..4).segments().count(), 0);
        assert_eq!(buffers.slice(3..5).segments().count(), 1);
    }

    #[test]
    fn pieces_are_whole_wherever_segments_end() {
        let (buffers, _memory) = scattered();
        let pieces = |buffers: &Buffers, len: usize| {
            let mut seen = Vec::new();
            buffers.for_each_piece(&mut vec![0; len], |at, piece| {
                seen.push((at, String::from_utf8(piece.to_vec()).unwrap()));
            });
            seen
        };
        let of = |seen: &[(usize, &str)]| -> Vec<_> {
            seen.iter()
                .map(|&(at, text)| (at, text.to_owned()))
                .collect()
        };
        assert_eq!(pieces(&buffers, 4), of(&[(0, "abce"), (4, "fghi")]));
        let inner = buffers.slice(1..7);
        assert_eq!(pieces(&inner, 2), of(&[(0, "bc"), (2, "ef"), (4, "gh")]));
        assert_eq!(pieces(&buffers, 10), of(&[]));
        assert_eq!(pieces(&buffers, 0), of(&[]));
    }

    #[test]
    fn exact_holds_only_its_own_bytes() {
        let (buffers, _memory) = scattered();
        let exact = buffers.slice(1..8).exact();
        let lens: Vec<_> = exact.iovecs().iter().map(|s| s.iov_len).collect();
        assert_eq!(lens, [2, 2, 3]);
        assert_eq!(exact.to_vec(), b"bcefghi");
    }

    #[test]
    fn owner_lives_as_long_as_any_slice() {
        let (buffers, memory) = scattered();
        let slice = buffers.slice(0..1);
        drop(buffers);
        assert_eq!(Arc::strong_count(&memory), 2);
        drop(slice);
        assert_eq!(Arc::strong_count(&memory), 1);
    }

    #[test]
    fn copies_and_fills() {
        let buffers = Buffers::zeroed(10);
        assert!(buffers.is_aligned(4096, 2));
        buffers.slice(2..8).fill(7);
        buffers.slice(4..6).copy_from(&[1, 2]);
        assert_eq!(buffers.to_vec(), [0, 0, 7, 7, 1, 2, 7, 7, 0, 0]);
        assert!(!buffers.slice(1..9).is_aligned(2, 2));
        assert!(!buffers.slice(2..9).is_aligned(2, 2));
    }

    #[test]
    fn one_byte_makes_it_not_zero() {
        let buffers = Buffers::zeroed(1500);
        assert!(buffers.is_zero());
        for position in [0, 511, 512, 1023, 1499] {
            buffers.slice(position..position + 1).fill(1);
            assert!(!buffers.is_zero(), "{position}");
            buffers.fill(0);
        }
        buffers.fill(1);
        buffers.slice(3..1100).fill(0);
        assert!(buffers.slice(3..1100).is_zero() && buffers.slice(7..7).is_zero());
    }

    #[test]
    fn concatenation_shares_what_it_is_made_of() {
        let (first, second) = (Buffers::from_vec(b"abc"), Buffers::from_vec(b"defg"));
        let both = Buffers::concat([first.slice(1..3), second.clone()]);
        assert_eq!(both.to_vec(), b"bcdefg");
        second.fill(b'x');
        assert_eq!(both.to_vec(), b"bcxxxx");
        assert!(!first.is_unique());
        drop(both);
        assert!(first.is_unique() && second.is_unique());
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn slice_past_the_end_panics() {
        let _ = Buffers::zeroed(4).slice(2..5);
    }
}
