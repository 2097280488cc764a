//! What has come of the answer to one request.

use std::cell::RefCell;
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::Buffers;
use crate::mutant::mutant;
use crate::ranges::Ranges;
use crate::storage::StorageExtent;
use crate::storage::remote::source::Failure;

/// The most pieces, apart from each other, that an answer may come in.
const PIECES_MAX: usize = 1024;
/// The most stretches of a status that are kept: what is behind them can be asked for again.
pub(super) const EXTENTS_MAX: usize = 16 << 10;

/// A request that has been sent.
pub(super) struct Pending {
    /// What of the export it asks for.
    pub(super) range: Range<u64>,
    pub(super) kind: Kind,
    /// What the server says is wrong.
    pub(super) error: Option<String>,
    /// Nobody waits any more.
    pub(super) is_abandoned: bool,
    pub(super) reply: Rc<Reply>,
}

pub(super) enum Kind {
    Read {
        /// Where what is wanted goes, absent once nobody wants it,
        target: Option<Buffers>,
        /// which starts here in the export.
        target_offset: u64,
        /// What has come.
        received: Ranges,
    },
    Status {
        extents: Vec<StorageExtent>,
    },
}

impl Pending {
    /// Whether `range` may be a part of the answer: it was asked for, and has not come before.
    pub(super) fn expects(&self, range: &Range<u64>) -> bool {
        let is_within = self.range.start <= range.start && range.end <= self.range.end;
        match &self.kind {
            Kind::Read { received, .. } => {
                let is_new =
                    !received.overlaps(range) || mutant("an NBD server may send the same for ever");
                let is_new = is_new && !range.is_empty();
                is_within && is_new && received.len() < PIECES_MAX
            }
            Kind::Status { .. } => false,
        }
    }

    /// Takes what was read at `offset`, as far as it is wanted.
    pub(super) fn put(&self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        if let Some((place, range)) = self.place(offset..end) {
            let from = usize::try_from(range.start - offset).unwrap_or(usize::MAX);
            place.copy_from(&bytes[from..from + place.len()]);
        }
    }

    /// Takes zeros.
    pub(super) fn put_zeros(&self, range: Range<u64>) {
        if let Some((place, _)) = self.place(range) {
            place.fill(0);
        }
    }

    /// Notes that all of `range` has come.
    pub(super) fn note(&mut self, range: Range<u64>) {
        if let Kind::Read { received, .. } = &mut self.kind {
            received.insert(range);
        }
    }

    /// Whether all has come that was asked for.
    pub(super) fn is_whole(&self) -> bool {
        match &self.kind {
            Kind::Read { received, .. } => received.bytes() == self.range.end - self.range.start,
            Kind::Status { extents } => !extents.is_empty(),
        }
    }

    /// Forgets where the answer goes.
    pub(super) fn abandon(&mut self) {
        self.is_abandoned = true;
        if mutant("what comes too late from an NBD server goes to memory all the same") {
            return;
        }
        if let Kind::Read { target, .. } = &mut self.kind {
            *target = None;
        }
    }

    /// What of `range` is wanted, and where that goes.
    fn place(&self, range: Range<u64>) -> Option<(Buffers, Range<u64>)> {
        let Kind::Read {
            target: Some(target),
            target_offset,
            ..
        } = &self.kind
        else {
            return None;
        };
        let start = range.start.max(*target_offset);
        let end = range.end.min(target_offset + target.len() as u64);
        let index = |n: u64| usize::try_from(n - target_offset).ok();
        let place = (start < end).then(|| Some(target.slice(index(start)?..index(end)?)))??;
        Some((place, start..end))
    }
}

/// How a request ends.
#[derive(Default)]
pub(super) struct Reply {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    outcome: Option<Result<Vec<StorageExtent>, Failure>>,
    waker: Option<Waker>,
}

impl Reply {
    pub(super) fn finish(&self, outcome: Result<Vec<StorageExtent>, Failure>) {
        let mut state = self.state.borrow_mut();
        state.outcome = Some(outcome);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    pub(super) async fn wait(&self) -> Result<Vec<StorageExtent>, Failure> {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if let Some(outcome) = state.outcome.take() {
                return Poll::Ready(outcome);
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}
