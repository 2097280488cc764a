//! Copying what nobody has read yet, while nobody wants anything else. Once all of it is here, the
//! image lets go of its base.

use std::cell::Cell;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::future::join;

use super::copy::{PIECE_BYTES, Prefetch};
use super::image::Image;
use crate::journal::Journaled as _;
use crate::timer::sleep;
use crate::{Error, Storage, spawn};

/// How long to keep out of the way after somebody else wanted something, at first; twice as long
/// each time that this goes on, and half as long when it does not.
const PAUSE_MIN: Duration = Duration::from_millis(4);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A walk through the disk, by two who take turns: one reads while the other writes.
struct Walk<S> {
    image: Weak<Image<S>>,
    prefetch: Prefetch,
    /// Where what was not looked at yet begins, in bytes.
    next: Cell<u64>,
}

impl<S: Storage> Image<S> {
    pub(super) fn start_prefetch(self: &Rc<Self>, prefetch: Prefetch) {
        let walk = Walk {
            image: Rc::downgrade(self),
            prefetch,
            next: Cell::new(0),
        };
        spawn(async move {
            let (one, other) = join(walk.go(), walk.go()).await;
            let ended = match (one.and(other), walk.image.upgrade()) {
                (Ok(()), Some(image)) => image.let_go_of_base().await,
                (walked, _) => walked,
            };
            if let Err(error) = ended {
                tracing::warn!(%error, "nothing more is copied from the base");
            }
        });
    }

    /// Copies one piece. Returns how much that was.
    async fn prefetch(&self, piece: &Range<u64>) -> Result<u64, Error> {
        let _change = self.changes.shared(0, 0).await;
        self.check_writable("copy from the base")?;
        let (first, last) = self.lock_range(piece);
        let exclusive = self.blocks.exclusive(first, last).await;
        let copied = self.copy_missing(piece).await?;
        drop(exclusive);
        self.count_copied(|copies| copies.prefetched_bytes += copied);
        self.record_sometimes().await?;
        Ok(copied)
    }

    /// Closes the base, and has the image say that it stands alone, if all of it is here.
    async fn let_go_of_base(&self) -> Result<(), Error> {
        let _changes = self.changes.all().await;
        let _everything = self.blocks.all().await;
        self.check_writable("stand alone")?;
        self.settle_for_good().await?;
        if self.header.borrow().base.is_some() {
            return Ok(());
        }
        let base = self.base.take();
        match base {
            Some(base) => base.close().await,
            None => Ok(()),
        }
    }
}

impl<S: Storage> Walk<S> {
    async fn go(&self) -> Result<(), Error> {
        let mut pause = PAUSE_MIN;
        loop {
            let Some(image) = self.image.upgrade().filter(|image| !image.is_closed.get()) else {
                return Ok(());
            };
            let Some(piece) = self.next_piece(&image) else {
                return Ok(());
            };
            let before = image.statistics.get().requests();
            let copied = image.prefetch(&piece).await?;
            let is_alone = image.statistics.get().requests() == before;
            drop(image);
            pause = if is_alone {
                pause / 2
            } else {
                (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)
            };
            let wait = self.least_time(copied).max(pause);
            if wait >= PAUSE_MIN {
                sleep(wait).await?;
            }
        }
    }

    /// The next piece that is not here as a whole.
    fn next_piece(&self, image: &Image<S>) -> Option<Range<u64>> {
        let end = image.size_bytes();
        let mut at = self.next.get();
        while at < end {
            let (local, run_end) = image.run(&(at..end));
            if !local {
                let piece = at..(at - at % PIECE_BYTES + PIECE_BYTES).min(run_end);
                self.next.set(piece.end);
                return Some(piece);
            }
            at = run_end;
        }
        self.next.set(end);
        None
    }

    /// How long so many bytes take at least; both who walk get half of the rate.
    fn least_time(&self, bytes: u64) -> Duration {
        let Some(rate) = self.prefetch.bytes_per_s else {
            return Duration::ZERO;
        };
        let least_ns = 2 * u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        Duration::from_nanos(u64::try_from(least_ns).unwrap_or(u64::MAX))
    }
}
