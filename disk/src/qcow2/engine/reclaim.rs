//! Making clusters free that nothing points to any more, and giving their space back.
//!
//! ```text
//!   dropped ── record durable ─> freed ── many, or idle ─> given back ── durable ─> free, and zeros
//! ```
//! To give space back changes how the host's file is allocated, and the next sync makes that durable
//! too. So with a journal it is done for many clusters at once. Until the zeros that are left are
//! durable, the clusters are held: then a small write there is as cheap as behind the end.

use super::image::Image;
use super::transaction::Freed;
use crate::journal::Journaled as _;
use crate::mutant::mutant;
use crate::{Error, Storage};

/// So many clusters are given back at once, or as few as have so many bytes.
const CLUSTERS_MIN: usize = 64;
const BYTES_MIN: u64 = 4 << 20;

/// What to reclaim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reclaim {
    /// What costs the host little.
    Usual,
    /// All there is.
    All,
}

impl<S: Storage> Image<S> {
    /// Whether there is something to reclaim.
    pub(super) fn has_to_reclaim(&self) -> bool {
        let committer = &self.committer;
        let freed = committer.freed.borrow();
        let is_cheap = |freed: &Freed| !self.is_batched(freed);
        let zeroed = committer.zeroed.borrow();
        is_much(&freed)
            || freed.iter().any(is_cheap)
            || (zeroed.front()).is_some_and(|(mark, _)| self.has_zeros_of(*mark))
    }

    /// Whether the zeros are durable that a change of the file has left.
    fn has_zeros_of(&self, mark: u64) -> bool {
        self.flusher.is_durable(mark) || mutant("zeros are used at once")
    }

    /// Whether a freed cluster had better be given back together with others.
    fn is_batched(&self, freed: &Freed) -> bool {
        freed.give_back && self.journal().is_some()
    }

    /// Makes clusters free that nothing points to any more, and gives their space back.
    pub(super) async fn reclaim(&self, what: Reclaim) -> Result<(), Error> {
        let _turn = self.committer.reclaiming.all().await;
        self.let_go_of_zeros();
        let mut runs = joined(self.take_freed(what)).into_iter();
        while let Some(run) = runs.next() {
            if let Some(journal) = self.journal() {
                journal.let_go(&(run.offset..run.offset + run.len)).await;
            }
            // Before it is free: afterwards it may be another's.
            let is_zero = run.give_back && self.give_back_space(&run).await;
            if self.journal().is_none() {
                if let Err(error) = self.drop_references(run.offset, run.len).await {
                    let left = std::iter::once(run).chain(runs);
                    self.committer.freed.borrow_mut().extend(left);
                    return Err(error);
                }
            } else if is_zero {
                let mark = self.flusher.mark();
                self.committer.zeroed.borrow_mut().push_back((mark, run));
            } else {
                self.let_go(run.offset, run.len);
            }
        }
        Ok(())
    }

    /// Takes what is to be reclaimed now: nobody can use it again meanwhile.
    fn take_freed(&self, what: Reclaim) -> Vec<Freed> {
        let mut freed = self.committer.freed.borrow_mut();
        freed.retain(|freed| self.is_held(freed));
        let is_due = what == Reclaim::All || is_much(&freed);
        let (now, later) = freed.drain(..).partition(|freed| {
            let is_kept = freed.held.is_some() && self.is_pinned(freed);
            !is_kept && (is_due || !self.is_batched(freed))
        });
        *freed = later;
        now
    }

    /// Whether somebody is about to put something into a cluster beside what was there.
    fn is_pinned(&self, freed: &Freed) -> bool {
        let cluster = self.layout().cluster_index(freed.offset);
        self.free_space.pins(cluster) > 0
    }

    /// Returns whether there are zeros from then on.
    async fn give_back_space(&self, run: &Freed) -> bool {
        let within = self.storage.size_bytes().saturating_sub(run.offset);
        if within == 0 {
            return true;
        }
        let given = self.storage.discard(run.offset, run.len.min(within)).await;
        self.flusher.changed();
        given.unwrap_or_else(|error| {
            tracing::warn!(%error, "the host keeps what is free");
            false
        })
    }

    /// Makes those clusters free whose zeros are durable.
    pub(super) fn let_go_of_zeros(&self) {
        let mut zeroed = self.committer.zeroed.borrow_mut();
        while let Some((_, run)) = zeroed.pop_front_if(|(mark, _)| self.has_zeros_of(*mark)) {
            self.let_go(run.offset, run.len);
            self.free_space.note_zeros(run.offset, run.len);
        }
    }
}

fn is_much(freed: &[Freed]) -> bool {
    let bytes = || freed.iter().map(|freed| freed.len).sum::<u64>();
    freed.len() >= CLUSTERS_MIN || bytes() >= BYTES_MIN
}

/// Joins neighbours, so that the host is asked seldom. Only whole clusters are given back, so that
/// what is joined counts one reference a cluster.
fn joined(mut freed: Vec<Freed>) -> Vec<Freed> {
    freed.sort_by_key(|run| run.offset);
    let mut joined: Vec<Freed> = Vec::new();
    for run in freed {
        match joined.last_mut() {
            Some(last)
                if last.give_back && run.give_back && last.offset + last.len == run.offset =>
            {
                last.len += run.len;
            }
            _ => joined.push(run),
        }
    }
    joined
}
