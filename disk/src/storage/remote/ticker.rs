//! Limits of time, kept by one timer for any number of waits: a guest may have hundreds of reads on
//! their way, and a timer of each would be a descriptor of each.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::executor::spawn;
use crate::timer::sleep;
use crate::wait_queue::WaitQueue;

/// Counts time in ticks while somebody waits.
pub(super) struct Ticker {
    tick: Duration,
    now: Cell<u32>,
    /// How many wait.
    waiting: Cell<usize>,
    is_running: Cell<bool>,
    ticked: WaitQueue,
}

impl Ticker {
    /// Limits are kept to a tick more.
    pub(super) fn new(tick: Duration) -> Rc<Self> {
        Rc::new(Self {
            tick: tick.max(Duration::from_millis(1)),
            now: Cell::new(0),
            waiting: Cell::new(0),
            is_running: Cell::new(false),
            ticked: WaitQueue::default(),
        })
    }

    /// Does `work`, unless it takes longer than `limit`.
    pub(super) async fn within<T>(
        self: &Rc<Self>,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let _waiting = Waiting::new(self);
        // One more, for the one that has begun.
        let ticks = limit.as_nanos().div_ceil(self.tick.as_nanos()) + 1;
        let due = self
            .now
            .get()
            .saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX));
        let late = async {
            while self.now.get() < due {
                self.ticked.wait().await;
            }
        };
        match select(pin!(work), pin!(late)).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    }

    fn start(self: &Rc<Self>) {
        if self.is_running.replace(true) {
            return;
        }
        let ticker = Rc::clone(self);
        spawn(async move {
            while ticker.waiting.get() > 0 {
                if let Err(error) = sleep(ticker.tick).await {
                    // Whoever waits next tries again.
                    tracing::warn!(%error, "limits of time are not kept");
                    break;
                }
                ticker.now.set(ticker.now.get().saturating_add(1));
                ticker.ticked.wake_all();
            }
            ticker.is_running.set(false);
        });
    }
}

/// Somebody who waits.
struct Waiting<'a>(&'a Ticker);

impl<'a> Waiting<'a> {
    fn new(ticker: &'a Rc<Ticker>) -> Self {
        ticker.waiting.set(ticker.waiting.get() + 1);
        ticker.start();
        Self(ticker)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::{Backend, Executor};

    #[test]
    fn what_takes_too_long_is_given_up_and_nothing_else() {
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
        executor.run(async {
            let ticker = Ticker::new(Duration::from_secs(1));
            assert_eq!(ticker.within(Duration::ZERO, ready(7)).await, Some(7));
            let short = ticker.within(Duration::from_secs(5), pending::<()>());
            let long = ticker.within(Duration::from_mins(1), async {
                sleep(Duration::from_secs(50)).await.unwrap();
            });
            let (short, long) = futures_util::future::join(short, long).await;
            assert_eq!((short, long), (None, Some(())));
        });
        let passed_s = executor.virtual_now_ns().unwrap() / 1_000_000_000;
        assert!((50..53).contains(&passed_s), "{passed_s} s");
    }

    #[test]
    fn limits_hold_again_after_a_rest() {
        let executor = Executor::with_backend(Backend::Simulated { seed: 2 }).unwrap();
        executor.run(async {
            let ticker = Ticker::new(Duration::from_secs(1));
            for _ in 0..3 {
                let never = ticker.within(Duration::from_secs(3), pending::<()>());
                assert_eq!(never.await, None);
                sleep(Duration::from_secs(20)).await.unwrap();
                assert!(!ticker.is_running.get(), "nobody waits");
            }
        });
    }
}
