//! The short way of requests whose data is in one place, with everything that it takes to know that
//! in memory: they are done without a wait but that for the host.

use super::image::Image;
use super::mapping::{Run, Source};
use crate::journal::Journaled as _;
use crate::range_locks::RangeGuard;
use crate::{Op, Request, Storage};

impl<S: Storage> Image<S> {
    /// Where in the file a read or write goes, with its clusters held, if it can go there at once.
    /// What is wrong with a request, or the image, is left to the long way to find.
    pub(super) fn direct(&self, request: &Request) -> Option<(RangeGuard<'_>, u64)> {
        let writes = match request.op {
            Op::Read(_) => false,
            Op::Write(_) => true,
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => return None,
        };
        let Request { offset, len, .. } = *request;
        let is_sound = len > 0 && self.check(request).is_ok();
        if self.looks_at_content(request) || !is_sound || (writes && !self.takes_writes()) {
            return None;
        }
        let layout = self.layout();
        let (first, last) = (
            layout.cluster_index(offset),
            layout.cluster_index(offset + len - 1),
        );
        let shared = self.guest.try_shared(first, last)?;
        let Run { len: run, source } = self.cached_run(offset, len)?;
        match source {
            Source::Host { offset, copied } if run == len && (copied || !writes) => {
                Some((shared, offset))
            }
            _ => None,
        }
    }

    /// Whether nothing needs to be done before a write.
    fn takes_writes(&self) -> bool {
        self.is_prepared.get() && !self.wants_relief() && self.check_writable("write").is_ok()
    }
}
