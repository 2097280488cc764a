//! The short way of requests whose blocks are all local: they are done without a wait but that for
//! the host.

use super::image::Image;
use crate::journal::Journaled as _;
use crate::range_locks::RangeGuard;
use crate::{Op, Request, Storage};

impl<S: Storage> Image<S> {
    /// Holds the blocks of a read or write that needs nothing but its place in the file, and says
    /// where that is. What is wrong with a request, or the image, is left to the long way to find.
    pub(super) fn direct(&self, request: &Request) -> Option<(RangeGuard<'_>, u64)> {
        let writes = match request.op {
            Op::Read(_) => false,
            Op::Write(_) => true,
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => return None,
        };
        let is_sound = request.len > 0 && request.problem(self.size_bytes()).is_none();
        if !is_sound || (writes && !self.takes_writes()) {
            return None;
        }
        let range = request.offset..request.offset + request.len;
        let (first, last) = self.blocks_of(&range);
        let shared = self.blocks.try_shared(first, last)?;
        let host = if writes {
            self.in_own_place(&range)?
        } else {
            self.in_one_place(&range)?
        };
        (!writes || self.is_recorded(&range)).then_some((shared, host))
    }

    /// Whether nothing needs to be done before a write.
    fn takes_writes(&self) -> bool {
        self.is_prepared.get() && !self.fills_a_record() && self.check_writable("write").is_ok()
    }
}
