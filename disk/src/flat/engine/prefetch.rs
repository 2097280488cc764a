//! Copying what nobody has read yet, while nobody wants anything else. Once all of it is here, the
//! image lets go of its base.

use std::cell::Cell;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::future::try_join_all;

use super::copy::{PIECE_BYTES, Prefetch};
use super::image::Image;
use super::pace::PAUSE_MIN;
use crate::journal::Journaled as _;
use crate::timer::sleep;
use crate::{Error, Storage, spawn};

/// How many pieces are copied at a time: of what a trace names, which is small and wanted soon, and
/// of the rest, where one reads while the other writes.
const TRACED_AT_ONCE: usize = 4;
const AT_ONCE: usize = 2;
/// How long to wait after a failure, at first; twice as long each time.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// What is left to do.
struct Walk<S> {
    image: Weak<Image<S>>,
    prefetch: Prefetch,
    /// How many walk.
    walkers: Cell<u32>,
    /// The number of the trace's next range, and where what is left of it begins.
    traced: Cell<(usize, u64)>,
    /// Where what was not looked at yet begins, in bytes.
    next: Cell<u64>,
    /// Whether something went wrong, which is said once.
    has_failed: Cell<bool>,
}

impl<S: Storage> Image<S> {
    pub(super) fn start_prefetch(self: &Rc<Self>, prefetch: Prefetch) {
        let walk = Walk {
            image: Rc::downgrade(self),
            prefetch,
            walkers: Cell::default(),
            traced: Cell::default(),
            next: Cell::default(),
            has_failed: Cell::default(),
        };
        self.pace.set_running(true);
        spawn(async move {
            let walked = walk.go().await;
            let Some(image) = walk.image.upgrade() else {
                return;
            };
            image.pace.set_running(false);
            let ended = match walked {
                Ok(()) => image.let_go_of_base().await,
                Err(error) => Err(error),
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
    /// Copies what the trace names, then the rest.
    async fn go(&self) -> Result<(), Error> {
        self.all(TRACED_AT_ONCE, Self::next_traced, false).await?;
        self.all(AT_ONCE, Self::next_piece, true).await
    }

    /// Copies all that `next` gives, by so many who walk beside each other.
    async fn all(
        &self,
        walkers: usize,
        next: fn(&Self, &Image<S>) -> Option<Range<u64>>,
        gives_way: bool,
    ) -> Result<(), Error> {
        self.walkers.set(u32::try_from(walkers).unwrap_or(1));
        let walks = (0..walkers).map(|_| self.walk(next, gives_way));
        try_join_all(walks).await.map(drop)
    }

    async fn walk(
        &self,
        next: fn(&Self, &Image<S>) -> Option<Range<u64>>,
        gives_way: bool,
    ) -> Result<(), Error> {
        while let Some(image) = self.open_image() {
            let Some(piece) = next(self, &image) else {
                break;
            };
            let Some(copied) = self.copy(image, &piece).await? else {
                break;
            };
            let Some(image) = self.open_image() else {
                break;
            };
            // What the trace names, the guest will want at once: it gains by not being alone.
            let pause = image.pace.after_piece();
            drop(image);
            let pause = if gives_way { pause } else { Duration::ZERO };
            let wait = self.least_time(copied).max(pause);
            if wait >= PAUSE_MIN {
                sleep(wait).await?;
            }
        }
        Ok(())
    }

    /// The image, while it is to stay open: nobody who walks keeps it so.
    fn open_image(&self) -> Option<Rc<Image<S>>> {
        let image = self.image.upgrade();
        image.filter(|image| !image.is_closing.is_set())
    }

    /// Copies a piece, as often as it takes: a base that is out of reach may come back, and a host
    /// that is full may have room again. Returns how much was copied, nothing if the image is gone.
    async fn copy(
        &self,
        mut image: Rc<Image<S>>,
        piece: &Range<u64>,
    ) -> Result<Option<u64>, Error> {
        let mut wait = RETRY_MIN;
        loop {
            let in_flight = image.pace.piece();
            let copied = image.prefetch(piece).await;
            drop(in_flight);
            match copied {
                Ok(copied) => return Ok(Some(copied)),
                Err(_) if image.is_closing.is_set() => return Ok(None),
                // It never will be what it was.
                Err(error @ Error::Changed { .. }) => return Err(error),
                Err(error) => {
                    // Nothing can be kept any more, now or later.
                    image.check_writable("copy from the base")?;
                    if !self.has_failed.replace(true) {
                        tracing::warn!(%error, "copying from the base goes on when it can");
                    }
                }
            }
            drop(image);
            sleep(wait).await?;
            wait = (wait * 2).min(RETRY_MAX);
            match self.open_image() {
                Some(again) => image = again,
                None => return Ok(None),
            }
        }
    }

    /// The next piece of what the trace names that is not here as a whole.
    fn next_traced(&self, image: &Image<S>) -> Option<Range<u64>> {
        let trace = self.prefetch.trace.as_ref()?;
        let (mut number, mut from) = self.traced.get();
        while let Some(range) = trace.ranges().get(number) {
            let end = range.end.min(image.size_bytes());
            if let Some(piece) = next_missing(image, from.max(range.start)..end) {
                self.traced.set((number, piece.end));
                return Some(piece);
            }
            (number, from) = (number + 1, 0);
        }
        self.traced.set((number, from));
        None
    }

    /// The next piece of the disk that is not here as a whole.
    fn next_piece(&self, image: &Image<S>) -> Option<Range<u64>> {
        let end = image.size_bytes();
        let piece = next_missing(image, self.next.get()..end);
        self.next.set(piece.as_ref().map_or(end, |piece| piece.end));
        piece
    }

    /// How long so many bytes take at least; all who walk share the rate.
    fn least_time(&self, bytes: u64) -> Duration {
        let Some(rate) = self.prefetch.bytes_per_s else {
            return Duration::ZERO;
        };
        let bytes = u128::from(bytes) * u128::from(self.walkers.get());
        let least_ns = bytes * 1_000_000_000 / u128::from(rate.max(1));
        Duration::from_nanos(u64::try_from(least_ns).unwrap_or(u64::MAX))
    }
}

/// The first piece of a range of the disk that is not here as a whole.
fn next_missing<S: Storage>(image: &Image<S>, range: Range<u64>) -> Option<Range<u64>> {
    let mut at = range.start;
    while at < range.end {
        let (local, run_end) = image.run(&(at..range.end));
        if !local {
            return Some(at..(at - at % PIECE_BYTES + PIECE_BYTES).min(run_end));
        }
        at = run_end;
    }
    None
}
