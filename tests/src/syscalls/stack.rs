//! Stacks of which every byte is known, far below the red zone.
#![expect(unsafe_code, reason = "maps memory and uses it as a stack")]

use std::ptr::{self, NonNull};
use std::slice;

use anyhow::{Context as _, Result, ensure};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::records::Numbers;

const PAGE_BYTES: usize = 4096;
/// The stack's own page is the last one.
const PAGES: usize = 3;
const BYTES: usize = PAGES * PAGE_BYTES;
const OWN: usize = BYTES - PAGE_BYTES;

/// What a leaf function may use below its stack pointer (System V ABI, AMD64, 3.2.2).
pub(super) const RED_ZONE_BYTES: usize = 128;
/// How far below the stack pointer a buffer may begin, where it is on the stack's own page.
pub(super) const BUFFER_BYTES_MAX: usize = 2048;

/// What lies below the stack's own page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    /// More of the stack, and so is all that an ordinary function would use.
    Known,
    /// Pages that were never touched, and must stay so.
    Untouched,
    /// Pages that may be read and not written.
    ReadOnly,
    /// Nothing: the stack ends.
    Nothing,
}

impl Below {
    /// All there is.
    pub(super) const ALL: [Self; 4] = [Self::Known, Self::Untouched, Self::ReadOnly, Self::Nothing];
}

/// A stack, and what must be on it.
#[derive(Debug)]
pub(super) struct Stack {
    memory: NonNull<u8>,
    below: Below,
    known: Vec<u8>,
}

impl Stack {
    /// A stack of zeros.
    pub(super) fn new(below: Below) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping harms nobody.
        let memory =
            unsafe { mmap_anonymous(ptr::null_mut(), BYTES, protection, MapFlags::PRIVATE) };
        let memory = NonNull::new(memory.context("mmap")?.cast());
        let stack = Self {
            memory: memory.context("mmap: address 0")?,
            below,
            known: vec![0; BYTES],
        };
        Ok(stack)
    }

    /// Where the stack pointer is: on a word that belongs to whoever uses the stack.
    pub(super) fn pointer(&self) -> u64 {
        self.memory.as_ptr() as u64 + self.top() as u64
    }

    fn top(&self) -> usize {
        match self.below {
            Below::Known => OWN + PAGE_BYTES / 4 * 3,
            // The red zone is on the stack's own page, and what follows is not.
            _ => OWN + RED_ZONE_BYTES * 2,
        }
    }

    /// Where it begins to be filled.
    fn start(&self) -> usize {
        match self.below {
            Below::Known | Below::ReadOnly => 0,
            Below::Untouched | Below::Nothing => OWN,
        }
    }

    /// Fills it anew with random bytes, as far as it may be written.
    pub(super) fn fill(&mut self, numbers: &mut Numbers) -> Result<()> {
        let start = self.start();
        self.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
        for word in self.known[start..].chunks_exact_mut(8) {
            word.copy_from_slice(&numbers.draw().to_le_bytes());
        }
        // SAFETY: the mapping goes on behind it.
        let memory = unsafe { self.memory.add(start) };
        let known = &self.known[start..];
        // SAFETY: the mapping is this long, writable from there on, and nobody else's.
        unsafe { ptr::copy_nonoverlapping(known.as_ptr(), memory.as_ptr(), known.len()) };
        match self.below {
            Below::ReadOnly => self.protect(MprotectFlags::READ),
            Below::Nothing => self.protect(MprotectFlags::empty()),
            Below::Known | Below::Untouched => Ok(()),
        }
    }

    /// Says what may be done with the pages below the stack's own.
    fn protect(&self, flags: MprotectFlags) -> Result<()> {
        // SAFETY: the pages are this mapping's, and no reference to them is held.
        unsafe { mprotect(self.memory.as_ptr().cast(), OWN, flags) }.context("mprotect")
    }

    /// The address `distance` bytes below the stack pointer, and the bytes that are known there.
    pub(super) fn buffer(&mut self, distance: usize, bytes: usize) -> (u64, &mut [u8]) {
        let start = self.top() - distance;
        let address = self.memory.as_ptr() as u64 + start as u64;
        (address, &mut self.known[start..start + bytes])
    }

    /// Looks whether all is as it was filled, and as buffers were changed since.
    pub(super) fn check(&mut self) -> Result<()> {
        let start = self.start();
        // SAFETY: the mapping goes on behind it.
        let memory = unsafe { self.memory.add(start) };
        // SAFETY: the mapping is this long, readable from there on, and nobody writes to it now.
        let found = unsafe { slice::from_raw_parts(memory.as_ptr(), BYTES - start) };
        let top = self.top();
        let differs = |at: &usize| found[at - start] != self.known[*at];
        let user = top..top + 8;
        let changed = (start..BYTES).find(|at| !user.contains(at) && differs(at));
        if let Some(at) = changed {
            let distance = top.abs_diff(at);
            let side = if at < top { "below" } else { "above" };
            anyhow::bail!("the stack changed {distance} bytes {side} its pointer");
        }
        ensure!(
            self.below != Below::Untouched || self.touched()? == 0,
            "pages below the stack were touched"
        );
        Ok(())
    }

    /// How many pages below the stack's own are in memory.
    fn touched(&self) -> Result<usize> {
        let mut resident = [0; PAGES - 1];
        // SAFETY: the kernel writes a byte for each of these pages.
        let result =
            unsafe { libc::mincore(self.memory.as_ptr().cast(), OWN, resident.as_mut_ptr()) };
        ensure!(result == 0, "mincore: {}", std::io::Error::last_os_error());
        Ok(resident.iter().filter(|&&page| page & 1 != 0).count())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's alone.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes where the stack does not expect it.
    fn poke(stack: &Stack, at: usize) {
        // SAFETY: it is in the mapping.
        let byte = unsafe { stack.memory.add(at).as_ptr() };
        // SAFETY: nobody else uses the mapping.
        unsafe { *byte ^= 1 };
    }

    #[test]
    fn a_changed_byte_is_noticed_wherever_it_is() {
        for below in Below::ALL {
            let mut stack = Stack::new(below).unwrap();
            stack.fill(&mut Numbers::new(7)).unwrap();
            stack.check().unwrap();
            let top = stack.top();
            let mut places = vec![OWN, top - RED_ZONE_BYTES, top - 1, top + 8, BYTES - 1];
            if below == Below::Known {
                places.push(top - RED_ZONE_BYTES - 1024);
            }
            for at in places {
                poke(&stack, at);
                assert!(stack.check().is_err(), "{below:?} at {at}");
                poke(&stack, at);
                stack.check().unwrap();
            }
            // The word of whoever uses the stack.
            poke(&stack, top);
            stack.check().unwrap();
        }
    }

    #[test]
    fn a_page_that_is_touched_is_noticed() {
        let mut stack = Stack::new(Below::Untouched).unwrap();
        stack.fill(&mut Numbers::new(7)).unwrap();
        stack.check().unwrap();
        poke(&stack, OWN - 1);
        assert!(stack.check().is_err());
    }
}
