//! Memory of a process that an insight-call may use for a moment: on its stack, below the 128 bytes
//! that belong to the function that runs (System V ABI, AMD64 supplement, section 3.2.2), where the
//! kernel puts the frames of signal handlers too.

use disk::mutant;

use super::paging::{Memory, Root};

const RED_ZONE_BYTES: u64 = 128;
/// So far below the red zone it begins; all of it lies between.
const DEPTH_BYTES: u64 = 1024;
const LINE_BYTES: u64 = 64;
const PAGE_BYTES: u64 = 4096;
/// At each end, to tell whether a signal handler has been there meanwhile.
const CANARY_BYTES: usize = 8;
/// Where Go keeps the stacks of its goroutines, which end where another's may begin
/// (runtime/malloc.go: arenas are at 0xc0 << 32 and up). Its calls are made there too.
const GO_ARENAS: std::ops::Range<u64> = 0xc0_0000_0000..0xe0_0000_0000;

/// Memory of a process, with what was there before.
#[derive(Debug)]
pub(super) struct Scratch {
    root: Root,
    address: u64,
    saved: Vec<u8>,
    canary: [u8; CANARY_BYTES],
}

/// What became of the memory while the process had it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// What the call left there.
    Whole(Vec<u8>),
    /// A signal handler, or whoever, wrote there; nothing in it counts.
    Overwritten,
}

impl Scratch {
    /// The pages that [`Scratch::place`] may need: where they start, and how many bytes they have. None
    /// where it takes none whatever is there.
    pub(super) fn pages(stack: u64) -> Option<(u64, u64)> {
        let start = start(stack)? & !(PAGE_BYTES - 1);
        let end = (stack - RED_ZONE_BYTES).next_multiple_of(PAGE_BYTES);
        Some((start, end - start))
    }

    /// Puts `content` below the stack pointer, between canaries made of `seed`. None where the
    /// process has no memory there that it could write without a fault.
    pub(super) fn place(
        memory: Memory<'_>,
        root: Root,
        stack: u64,
        content: &[u8],
        seed: u64,
    ) -> Option<Self> {
        let address = start(stack)?;
        let canary = seed.to_le_bytes();
        let mut saved = vec![0; content.len() + 2 * CANARY_BYTES];
        if memory.read_user(root, address, &mut saved) < saved.len() {
            return None;
        }
        let all = [&canary, content, &canary].concat();
        memory.write_user(root, address, &all).then_some(Self {
            root,
            address,
            saved,
            canary,
        })
    }

    /// The address of the content.
    pub(super) fn address(&self) -> u64 {
        self.address + CANARY_BYTES as u64
    }

    /// Takes what the call left, and puts back what was there before.
    pub(super) fn take(self, memory: Memory<'_>) -> Taken {
        let mut all = vec![0; self.saved.len()];
        let len = memory.read_user(self.root, self.address, &mut all);
        let content = CANARY_BYTES..all.len() - CANARY_BYTES;
        let whole = len == all.len()
            && all[..content.start] == self.canary
            && all[content.end..] == self.canary;
        if !whole && !mutant("what a signal handler wrote is an answer") {
            return Taken::Overwritten;
        }
        memory.write_user(self.root, self.address, &self.saved);
        all.truncate(content.end);
        all.drain(..content.start);
        Taken::Whole(all)
    }
}

/// Where it begins, below a stack pointer.
fn start(stack: u64) -> Option<u64> {
    if GO_ARENAS.contains(&stack) {
        return None;
    }
    let start = stack.checked_sub(RED_ZONE_BYTES + DEPTH_BYTES)?;
    Some(start & !(LINE_BYTES - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    const ROOT: Root = Root {
        table: 0x1000,
        five_levels: false,
    };
    const STACK: u64 = 0x40_0f00;

    #[test]
    fn the_pages_that_are_needed_are_below_the_red_zone() {
        for (stack, pages) in [
            (0x7f00_0f00, Some((0x7f00_0000, 0x1000))),
            (0x7f00_0480, Some((0x7f00_0000, 0x1000))),
            (0x7f00_0400, Some((0x7eff_f000, 0x2000))),
            (0x7f00_0080, Some((0x7eff_f000, 0x1000))),
            (0xc0_0000_0f00, None),
            (1000, None),
        ] {
            assert_eq!(Scratch::pages(stack), pages, "{stack:#x}");
        }
    }

    /// Memory with one writable page at `0x40_0000`.
    fn memory() -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        for (table, index, entry) in [
            (0x1000, 0, 0x2007),
            (0x2000, 0, 0x3007),
            (0x3000, 2, 0x4007),
            (0x4000, 0, 0x5007),
        ] {
            Memory(&memory).set_entry(table, index, entry).unwrap();
        }
        let page: Vec<u8> = (0..4096_u32).map(|n| n.to_le_bytes()[0]).collect();
        memory.write_slice(&page, GuestAddress(0x5000)).unwrap();
        memory
    }

    fn page(memory: &GuestMemoryMmap) -> Vec<u8> {
        let mut page = vec![0; 4096];
        memory.read_slice(&mut page, GuestAddress(0x5000)).unwrap();
        page
    }

    #[test]
    fn memory_is_as_it_was_afterwards_and_the_red_zone_always() {
        let memory = memory();
        let before = page(&memory);
        let scratch = Scratch::place(Memory(&memory), ROOT, STACK, &[9; 600], 1).unwrap();
        let during = page(&memory);
        assert_eq!(during[0xf00 - 128..], before[0xf00 - 128..]);
        assert_ne!(during, before);
        assert_eq!(scratch.take(Memory(&memory)), Taken::Whole(vec![9; 600]));
        assert_eq!(page(&memory), before);
    }

    #[test]
    fn what_a_signal_handler_wrote_is_noticed_and_left_alone() {
        let memory = memory();
        let scratch = Scratch::place(Memory(&memory), ROOT, STACK, &[9; 600], 1).unwrap();
        let end = scratch.address() + 600 - 0x40_0000 + 0x5000;
        memory.write_slice(b"frame", GuestAddress(end)).unwrap();
        assert_eq!(scratch.take(Memory(&memory)), Taken::Overwritten);
        let mut frame = [0; 5];
        memory.read_slice(&mut frame, GuestAddress(end)).unwrap();
        assert_eq!(&frame, b"frame");
    }

    #[test]
    fn small_stacks_and_pages_that_are_not_there_are_not_used() {
        let memory = memory();
        for stack in [0, 1000, 0x40_0100, 0x41_0000, 0xc0_0001_0000] {
            assert!(Scratch::place(Memory(&memory), ROOT, stack, &[9; 600], 1).is_none());
        }
    }
}
