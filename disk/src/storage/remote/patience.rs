//! Trying again.
//!
//! Whatever fails is tried again after a pause, until the deadline. A pause is for all that have
//! failed, so that a server that comes back is not met by as many connections as there are reads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};

use super::source::Failure;
use super::ticker::Ticker;
use crate::latch::Latch;
use crate::mutant::mutant;
use crate::timer::sleep;

/// The first pause; each further one is twice as long,
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long to try.
pub(super) struct Patience {
    deadline: Duration,
    ticker: Rc<Ticker>,
    /// How long the next pause is.
    next_pause: Cell<Duration>,
    pause: RefCell<Option<Pause>>,
    /// What has changed, for good.
    changed: RefCell<Option<String>>,
    /// Set once nobody wants anything any more.
    given_up: Latch,
}

type Pause = Shared<LocalBoxFuture<'static, Result<(), String>>>;

impl Patience {
    pub(super) fn new(deadline: Duration, ticker: Rc<Ticker>) -> Self {
        Self {
            deadline,
            ticker,
            next_pause: Cell::new(PAUSE_MIN),
            pause: RefCell::default(),
            changed: RefCell::default(),
            given_up: Latch::default(),
        }
    }

    /// Does `attempt` again and again until it succeeds, or the deadline has passed.
    pub(super) async fn persist<T>(
        &self,
        attempt: impl AsyncFn() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let last = RefCell::new(None);
        let tries = self
            .ticker
            .within(self.deadline, self.tries(attempt, &last));
        match self.given_up.unless_set(tries).await {
            Some(Some(done)) => return done,
            Some(None) => {}
            None => return Err(Failure::Passing("nobody waits for it any more".to_owned())),
        }
        let waited_s = self.deadline.as_secs_f64();
        let why = last
            .take()
            .unwrap_or_else(|| "there was no answer".to_owned());
        Err(Failure::Passing(format!("{why} (for {waited_s} s)")))
    }

    /// Ends all that waits, and all that would.
    pub(super) fn give_up(&self) {
        self.given_up.set();
    }

    async fn tries<T>(
        &self,
        attempt: impl AsyncFn() -> Result<T, Failure>,
        last: &RefCell<Option<String>>,
    ) -> Result<T, Failure> {
        loop {
            if let Some(what) = &*self.changed.borrow() {
                return Err(Failure::Changed(what.clone()));
            }
            match attempt().await {
                Ok(done) => {
                    self.next_pause.set(PAUSE_MIN);
                    return Ok(done);
                }
                Err(Failure::Changed(what)) => {
                    if mutant("what has changed far away may change back") {
                        return Err(Failure::Changed(what));
                    }
                    self.changed.replace(Some(what));
                }
                Err(Failure::Passing(why)) => {
                    tracing::debug!(why, "trying again");
                    last.replace(Some(why));
                    self.pause().await.map_err(Failure::Passing)?;
                }
            }
        }
    }

    /// Waits until it is time for another attempt.
    async fn pause(&self) -> Result<(), String> {
        let current = self.pause.borrow().clone();
        let is_on =
            |pause: &Pause| pause.peek().is_none() && !mutant("each read has its own pause");
        let pause = match current.filter(is_on) {
            Some(pause) => pause,
            None => self.begin_pause(),
        };
        pause.await
    }

    fn begin_pause(&self) -> Pause {
        let len = self.next_pause.get();
        self.next_pause.set((len * 2).min(PAUSE_MAX));
        let passed = async move { sleep(len).await.map_err(|error| error.to_string()) };
        let pause = passed.boxed_local().shared();
        self.pause.replace(Some(pause.clone()));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::yield_now;
    use crate::{Backend, Executor};

    fn patience() -> Patience {
        Patience::new(Duration::from_mins(1), Ticker::new(Duration::from_secs(1)))
    }

    /// Runs on a virtual clock, and tells how much has passed, in seconds.
    fn run(work: impl AsyncFnOnce(&Patience)) -> f64 {
        let executor = Executor::with_backend(Backend::Simulated { seed: 3 }).unwrap();
        executor.run(async { work(&patience()).await });
        Duration::from_nanos(executor.virtual_now_ns().unwrap()).as_secs_f64()
    }

    fn away() -> Failure {
        Failure::Passing("away".to_owned())
    }

    #[test]
    fn pauses_grow_and_begin_anew_after_a_success() {
        let passed_s = run(async |patience| {
            for failures in [4, 0, 1] {
                let left = Cell::new(failures);
                let attempt = async || {
                    if left.get() == 0 {
                        return Ok(7);
                    }
                    left.set(left.get() - 1);
                    Err(away())
                };
                assert_eq!(patience.persist(attempt).await, Ok(7));
            }
        });
        assert!((1.6..1.7).contains(&passed_s), "{passed_s} s");
    }

    #[test]
    fn the_deadline_ends_it_and_the_next_one_tries_again() {
        let passed_s = run(async |patience| {
            let attempts = Cell::new(0);
            let failed = patience.persist(async || {
                attempts.set(attempts.get() + 1);
                Err::<(), _>(away())
            });
            let failed = failed.await.unwrap_err();
            assert_eq!(failed, Failure::Passing("away (for 60 s)".to_owned()));
            assert_eq!(attempts.get(), 17, "0.1 s to 3.2 s, and then 5 s");
            let never = patience.persist(async || std::future::pending().await);
            let failed: Result<(), _> = never.await;
            assert_eq!(
                failed,
                Err(Failure::Passing(
                    "there was no answer (for 60 s)".to_owned()
                ))
            );
            assert_eq!(patience.persist(async || Ok(7)).await, Ok(7));
        });
        assert!((120.0..124.0).contains(&passed_s), "{passed_s} s");
    }

    #[test]
    fn all_that_failed_share_a_pause() {
        let passed_s = run(async |patience| {
            let is_back = Cell::new(false);
            let attempts = Cell::new(0);
            let wait = || {
                patience.persist(async || {
                    attempts.set(attempts.get() + 1);
                    yield_now().await;
                    is_back.get().then_some(()).ok_or_else(away)
                })
            };
            let come_back = async {
                sleep(Duration::from_secs(1)).await.unwrap();
                is_back.set(true);
            };
            let all = futures_util::future::join_all((0..100).map(|_| wait()));
            let (results, ()) = futures_util::future::join(all, come_back).await;
            assert!(results.iter().all(Result::is_ok));
            // At once, and after 0.1, 0.3, 0.7 and 1.5 seconds.
            assert_eq!(attempts.get(), 500);
        });
        assert!((1.5..1.6).contains(&passed_s), "{passed_s} s");
    }

    #[test]
    fn a_change_is_for_good() {
        let passed_s = run(async |patience| {
            let changed = Failure::Changed("another size".to_owned());
            let first = patience.persist(async || Err::<(), _>(changed.clone()));
            assert_eq!(first.await, Err(changed.clone()));
            assert_eq!(patience.persist(async || Ok(())).await, Err(changed));
        });
        assert!(passed_s < 0.1, "{passed_s} s");
    }
}
