//! How fast to copy what nobody has read yet: as fast as others do not feel it.
//!
//! The latency of others' requests is known in two states: while nothing is being copied ahead, and
//! while something is. As long as the second is not much worse than the first, there are no pauses
//! between pieces. When it is, or when the first is not known, pauses become longer, in which others
//! are alone, and their latency is learnt anew. What is in the file and what comes from the base are
//! kept apart: they differ by orders of magnitude.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::executor::Core;

/// How long to keep out of the way, at first; twice as long each time that this goes on, and half as
/// long when it does not.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(4);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Latency may become so many times what it was, and this much more that no clock is blamed.
const WORSE_TIMES: u64 = 2;
const WORSE_NS: u64 = 200_000;
/// A mean gives a new sample this share, as a power of two.
const MEAN_SHIFT: u32 = 3;
/// After so many pieces among others' requests, what was learnt alone is old.
const PIECES_UNTIL_OLD: u32 = 64;
/// A request that is longer counts as several.
const UNIT_BYTES: u64 = 64 << 10;

/// What others' requests took, and how long to keep away from them.
pub(super) struct Pace {
    clock: Option<fn() -> Instant>,
    /// What the clock said at first.
    epoch: Option<Instant>,
    /// Whether anything is copied ahead, so that others' requests are worth a look.
    running: Cell<bool>,
    /// Pieces in flight.
    in_flight: Cell<u32>,
    /// Pieces that were ever begun.
    begun: Cell<u64>,
    /// Requests that were done since the last piece.
    requests: Cell<u32>,
    /// Pieces since others were last alone.
    pieces: Cell<u32>,
    pause: Cell<Duration>,
    here: RefCell<Latency>,
    far: RefCell<Latency>,
}

/// Mean latencies in nanoseconds, where there were any.
#[derive(Default)]
struct Latency {
    alone_ns: Option<u64>,
    beside_ns: Option<u64>,
}

/// A request of others under way.
pub(super) struct Watched {
    start_ns: u64,
    /// How many pieces had been begun, if none of them was in flight.
    alone: Option<u64>,
    far: bool,
}

/// A piece in flight, until it is dropped.
pub(super) struct PieceInFlight<'a>(&'a Pace);

impl Drop for PieceInFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

impl Pace {
    /// By `clock`, or the virtual one of a simulation.
    pub(super) fn new(clock: Option<fn() -> Instant>) -> Self {
        Self {
            clock,
            epoch: clock.map(|now| now()),
            running: Cell::default(),
            in_flight: Cell::default(),
            begun: Cell::default(),
            requests: Cell::default(),
            pieces: Cell::default(),
            pause: Cell::default(),
            here: RefCell::default(),
            far: RefCell::default(),
        }
    }

    /// A piece begins.
    pub(super) fn piece(&self) -> PieceInFlight<'_> {
        self.in_flight.set(self.in_flight.get() + 1);
        self.begun.set(self.begun.get() + 1);
        PieceInFlight(self)
    }

    /// Copying ahead begins, or ends.
    pub(super) fn set_running(&self, running: bool) {
        self.running.set(running);
    }

    /// A request of others begins. It is looked at while something is copied ahead. `far` says
    /// whether some of what it wants is at the base.
    pub(super) fn watch(&self, far: impl FnOnce() -> bool) -> Option<Watched> {
        self.running.get().then(|| Watched {
            start_ns: self.now_ns(),
            alone: (self.in_flight.get() == 0).then(|| self.begun.get()),
            far: far(),
        })
    }

    /// It is done, after `len` bytes were moved.
    pub(super) fn done(&self, watched: &Watched, len: u64) {
        let took_ns = self.now_ns().saturating_sub(watched.start_ns);
        let was_alone = watched.alone == Some(self.begun.get());
        let latency = if watched.far { &self.far } else { &self.here };
        latency
            .borrow_mut()
            .learn(took_ns / len.div_ceil(UNIT_BYTES).max(1), was_alone);
        self.requests.set(self.requests.get().saturating_add(1));
        if was_alone {
            self.pieces.set(0);
        }
    }

    /// A piece was copied. Returns how long to wait before the next.
    pub(super) fn after_piece(&self) -> Duration {
        let among_others = self.requests.replace(0) > 0;
        let old = among_others && self.pieces.get() >= PIECES_UNTIL_OLD;
        self.pieces.set(self.pieces.get().saturating_add(1));
        let is_felt = || self.here.borrow().is_worse() || self.far.borrow().is_worse();
        let pause = self.pause.get();
        self.pause.set(if among_others && (old || is_felt()) {
            (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)
        } else if pause > PAUSE_MIN {
            pause / 2
        } else {
            Duration::ZERO
        });
        self.pause.get()
    }

    fn now_ns(&self) -> u64 {
        match (self.clock, self.epoch) {
            (Some(now), Some(epoch)) => {
                u64::try_from((now() - epoch).as_nanos()).unwrap_or(u64::MAX)
            }
            _ => Core::current().reactor.virtual_now_ns().unwrap_or(0),
        }
    }
}

impl Latency {
    fn learn(&mut self, took_ns: u64, alone: bool) {
        let mean = if alone {
            // What it was like beside pieces is judged anew.
            self.beside_ns = None;
            &mut self.alone_ns
        } else {
            &mut self.beside_ns
        };
        *mean = Some(match *mean {
            None => took_ns,
            Some(mean) => mean - (mean >> MEAN_SHIFT) + (took_ns >> MEAN_SHIFT),
        });
    }

    /// Whether requests beside pieces take longer than they should, as far as one can tell.
    fn is_worse(&self) -> bool {
        match (self.beside_ns, self.alone_ns) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(beside_ns), Some(alone_ns)) => {
                beside_ns
                    > alone_ns
                        .saturating_mul(WORSE_TIMES)
                        .saturating_add(WORSE_NS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// What the clock says: the test's own thread sets it.
    fn clock() -> Instant {
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        NOW_NS.with(|now_ns| {
            *EPOCH.get_or_init(Instant::now) + Duration::from_nanos(now_ns.load(Ordering::Relaxed))
        })
    }

    thread_local! {
        static NOW_NS: AtomicU64 = const { AtomicU64::new(0) };
    }

    fn pace() -> Pace {
        let pace = Pace::new(Some(clock));
        pace.set_running(true);
        pace
    }

    /// A request that takes so long, beside a piece or not.
    fn request(pace: &Pace, took_us: u64, far: bool) {
        let watched = pace.watch(|| far).unwrap();
        NOW_NS.with(|now_ns| now_ns.fetch_add(took_us * 1000, Ordering::Relaxed));
        pace.done(&watched, 4096);
    }

    fn beside_piece(pace: &Pace, took_us: u64, far: bool) -> Duration {
        let piece = pace.piece();
        request(pace, took_us, far);
        drop(piece);
        pace.after_piece()
    }

    #[test]
    fn nobody_else_means_no_pause() {
        let pace = pace();
        for _ in 0..10 {
            drop(pace.piece());
            assert_eq!(pace.after_piece(), Duration::ZERO);
        }
    }

    #[test]
    fn what_is_not_felt_goes_on() {
        let pace = pace();
        request(&pace, 100, false);
        request(&pace, 5000, true);
        for _ in 0..PIECES_UNTIL_OLD - 1 {
            assert_eq!(beside_piece(&pace, 300, false), Duration::ZERO);
            assert_eq!(beside_piece(&pace, 9000, true), Duration::ZERO);
            // Both are alone for once.
            request(&pace, 100, false);
            request(&pace, 5000, true);
        }
    }

    #[test]
    fn latency_that_rises_makes_pauses_grow_and_shrink_again() {
        for far in [false, true] {
            let pace = pace();
            request(&pace, 1000, far);
            let mut last = Duration::ZERO;
            for _ in 0..7 {
                let pause = beside_piece(&pace, 50_000, far);
                assert!(pause > last, "{pause:?} after {last:?}");
                last = pause;
            }
            assert_eq!(beside_piece(&pace, 50_000, far), PAUSE_MAX);
            // Alone, and then not felt any more.
            request(&pace, 1000, far);
            while last > Duration::ZERO {
                let pause = beside_piece(&pace, 1000, far);
                assert!(
                    pause < last || last == PAUSE_MAX,
                    "{pause:?} after {last:?}"
                );
                last = pause;
            }
        }
    }

    #[test]
    fn what_is_not_known_is_found_out() {
        let pace = pace();
        assert_eq!(beside_piece(&pace, 100, false), PAUSE_MIN);
        request(&pace, 100, false);
        assert_eq!(beside_piece(&pace, 100, false), Duration::ZERO);
        for _ in 0..PIECES_UNTIL_OLD {
            beside_piece(&pace, 100, false);
        }
        assert_ne!(beside_piece(&pace, 100, false), Duration::ZERO);
    }
}
