//! The reactor: does operations on files and waits for events, while the executor sleeps.
//!
//! An operation belongs to the reactor from its submission until the host says it is done, with
//! the memory it reads or writes. Whoever waits for it may go away at any time: the slot then
//! stays, marked abandoned, and is freed by the completion. So nothing the kernel may still write
//! to is ever freed, and no descriptor it may still use is ever closed.

mod clock;
mod extent;
mod inline;
mod operation;
mod own_sync;
mod pool;
mod probe;
mod signals;
mod socket;
mod submitted;
mod uring;

use std::cell::{Cell, RefCell};
use std::io;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

pub(crate) use operation::{AllocateMode, Operation, barrier};
pub(crate) use probe::uring_features;
pub(crate) use socket::{Readiness, send, send_slices, shutdown};
pub(crate) use submitted::submit;

use crate::Error;
use crate::event::Event;
use crate::executor::{Alarm, Backend};
use clock::Clock;
use inline::{Inline, Verdict};
use own_sync::OwnSync;
use pool::Pool;
use submitted::Progress;
use uring::Uring;

/// How many operations are done at once before other tasks get their turn.
const AT_ONCE_MAX: u32 = 32;

/// Does operations, in one of three ways.
pub(crate) struct Reactor {
    driver: RefCell<Driver>,
    slots: RefCell<Slab<Slot>>,
    watches: RefCell<Slab<Watch>>,
    /// Operations without a completion.
    in_flight: Cell<usize>,
    /// Those of them that may hold their file's lock for long.
    locking: Cell<usize>,
    /// Operations that may still be done at once in this turn, so that others get theirs.
    at_once: Cell<u32>,
    /// Completions that need no waiting for.
    done: RefCell<Vec<Completion>>,
    /// Does what the driver cannot do itself.
    pool: Pool,
    inline: Inline,
    own_sync: OwnSync,
    alarm: Arc<Alarm>,
}

enum Driver {
    Uring(Box<Uring>),
    /// With the slots of operations on sockets, which `poll` looks after.
    Threads(Vec<usize>),
    Simulated(Clock),
}

/// An operation, from its submission until someone has taken its result.
struct Slot {
    /// Absent once it is done.
    operation: Option<Operation>,
    /// Whether it may hold its file's lock for long.
    locks: bool,
    state: State,
}

enum State {
    Pending(Option<Waker>),
    /// Nobody waits any more.
    Abandoned,
    Done(i32),
}

/// An eventfd that is being watched.
struct Watch {
    event: Event,
    /// A signal, or why there will be none.
    outcome: Option<io::Result<()>>,
    waker: Option<Waker>,
    /// Whether the kernel still polls it.
    armed: bool,
    /// Whether it is to go as soon as the kernel lets go.
    closed: bool,
}

/// What the host reports.
#[derive(Clone, Copy, Debug)]
enum Completion {
    /// The operation in a slot is done: a count, or a negated error number.
    Operation { slot: usize, result: i32 },
    /// A watched eventfd was signalled; `more` if it still is being watched.
    Signal {
        watch: usize,
        result: i32,
        more: bool,
    },
}

impl Reactor {
    pub(crate) fn new(backend: Backend, alarm: Arc<Alarm>) -> Result<Self, Error> {
        let driver = match backend {
            Backend::IoUring => {
                let uring = Uring::new(&alarm).map_err(Error::setup("io_uring"))?;
                Driver::Uring(Box::new(uring))
            }
            Backend::Threads => Driver::Threads(Vec::new()),
            Backend::Simulated { .. } => Driver::Simulated(Clock::default()),
        };
        Ok(Self {
            driver: RefCell::new(driver),
            slots: RefCell::default(),
            watches: RefCell::default(),
            in_flight: Cell::new(0),
            locking: Cell::new(0),
            at_once: Cell::new(AT_ONCE_MAX),
            done: RefCell::default(),
            pool: Pool::new(Arc::clone(&alarm)),
            inline: Inline::default(),
            own_sync: OwnSync::default(),
            alarm,
        })
    }

    /// The time on the simulated clock, if there is one.
    pub(crate) fn virtual_now_ns(&self) -> Option<u64> {
        match &*self.driver.borrow() {
            Driver::Simulated(clock) => Some(clock.now_ns),
            Driver::Uring(_) | Driver::Threads(_) => None,
        }
    }

    /// Starts an operation.
    fn submit(&self, operation: Operation) -> Progress {
        let locked = self.locking.get() > 0;
        let alone = || self.finite_in_flight() == 0;
        match self.inline.perform(&operation, locked, alone) {
            Verdict::Done(result) => self.done_at_once(result),
            Verdict::Queue { locks } => Progress::Slot(self.queue(operation, locks)),
        }
    }

    /// Reports an operation that is done already, in the next turn if there were many in this.
    fn done_at_once(&self, result: i32) -> Progress {
        if let Some(left) = self.at_once.get().checked_sub(1) {
            self.at_once.set(left);
            return Progress::Done(result);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let slot = self.slots.borrow_mut().insert(Slot {
            operation: None,
            locks: false,
            state: State::Pending(None),
        });
        let completion = Completion::Operation { slot, result };
        self.done.borrow_mut().push(completion);
        Progress::Slot(slot)
    }

    /// Hands an operation to whoever does it, and returns its slot.
    fn queue(&self, operation: Operation, locks: bool) -> usize {
        let own = matches!(operation, Operation::Sync { .. }) && self.may_do_sync();
        self.in_flight.set(self.in_flight.get() + 1);
        self.locking.set(self.locking.get() + usize::from(locks));
        let slot = self.slots.borrow().vacant_key();
        if own {
            self.own_sync.keep(slot);
        } else {
            self.hand_over(&operation, slot);
        }
        self.slots.borrow_mut().insert(Slot {
            operation: Some(operation),
            locks,
            state: State::Pending(None),
        })
    }

    /// Whether this thread may do a sync itself.
    fn may_do_sync(&self) -> bool {
        let is_real = !matches!(&*self.driver.borrow(), Driver::Simulated(_));
        is_real && self.own_sync.wants(self.finite_in_flight() == 0)
    }

    /// How many operations are in flight that do not wait for somebody else.
    fn finite_in_flight(&self) -> usize {
        let is_finite = |operation: &Operation| !operation.is_endless();
        let slots = self.slots.borrow();
        let finite = slots.iter().filter(|(_, slot)| {
            let operation = slot.operation.as_ref();
            operation.is_some_and(is_finite)
        });
        finite.count()
    }

    /// Hands an operation to the driver.
    fn hand_over(&self, operation: &Operation, slot: usize) {
        match &mut *self.driver.borrow_mut() {
            Driver::Uring(uring) => {
                if !uring.submit(operation, slot) {
                    self.pool.submit(operation.clone(), slot);
                }
            }
            Driver::Threads(waiting) if operation.is_endless() => waiting.push(slot),
            Driver::Threads(_) => self.pool.submit(operation.clone(), slot),
            Driver::Simulated(clock) => {
                if let Operation::Delay { duration_ns } = operation {
                    clock.start(*duration_ns, slot);
                } else {
                    let result = operation.perform();
                    self.done
                        .borrow_mut()
                        .push(Completion::Operation { slot, result });
                }
            }
        }
    }

    /// Hands over what was submitted, and takes what is done. Sleeps until there is something if
    /// `idle` says that the executor has nothing else to do.
    pub(crate) fn turn(&self, idle: impl Fn() -> bool) {
        self.at_once.set(AT_ONCE_MAX);
        if let Some(slot) = self.own_sync.take() {
            self.sync(slot, &idle);
        }
        let idle = || idle() && self.has_none_done();
        let sleep = idle() && self.alarm.prepare_sleep(idle);
        self.take_done(sleep);
    }

    /// Does a sync itself, if there is nothing else to do.
    fn sync(&self, slot: usize, idle: impl Fn() -> bool) {
        self.take_done(false);
        let operation = self.slots.borrow()[slot].operation.clone();
        let operation = operation.expect("it was not begun");
        let is_needed = || !idle() || !self.has_none_done();
        let others = self.finite_in_flight() > 1;
        if others || is_needed() {
            if others || !self.own_sync.keep_on(slot) {
                self.hand_over(&operation, slot);
            }
            return;
        }
        let result = operation.perform();
        self.take_done(false);
        self.own_sync.done(is_needed());
        self.done
            .borrow_mut()
            .push(Completion::Operation { slot, result });
    }

    fn has_none_done(&self) -> bool {
        self.done.borrow().is_empty() && !self.pool.has_done()
    }

    /// Takes what is done, and tells who waits for it.
    fn take_done(&self, sleep: bool) {
        let mut done = mem::take(&mut *self.done.borrow_mut());
        match &mut *self.driver.borrow_mut() {
            Driver::Uring(uring) => uring.turn(sleep, &mut done),
            Driver::Threads(waiting) => signals::wait(
                sleep,
                &self.alarm,
                &self.watches.borrow(),
                (waiting, &self.slots.borrow()),
                &mut done,
            ),
            Driver::Simulated(clock) if sleep => done.push(clock.advance()),
            Driver::Simulated(_) => {}
        }
        self.alarm.awake();
        self.pool.take_done(&mut done);
        for completion in done.drain(..) {
            match completion {
                Completion::Operation { slot, result } => self.complete(slot, result),
                Completion::Signal {
                    watch,
                    result,
                    more,
                } => self.signal(watch, result, more),
            }
        }
        // Wakers may have run foreign code that submitted: keep what it left, and our allocation.
        let mut left = self.done.borrow_mut();
        done.append(&mut left);
        *left = done;
    }

    fn complete(&self, slot: usize, result: i32) {
        self.in_flight.set(self.in_flight.get() - 1);
        let mut slots = self.slots.borrow_mut();
        let entry = &mut slots[slot];
        let operation = entry.operation.take();
        self.locking
            .set(self.locking.get() - usize::from(entry.locks));
        let waker = match mem::replace(&mut entry.state, State::Done(result)) {
            State::Pending(waker) => waker,
            State::Abandoned => {
                slots.remove(slot);
                None
            }
            State::Done(_) => unreachable!("an operation completes once"),
        };
        drop(slots);
        drop(operation);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_slot(&self, slot: usize, context: &mut Context<'_>) -> Poll<i32> {
        let mut slots = self.slots.borrow_mut();
        match &mut slots[slot].state {
            State::Done(result) => {
                let result = *result;
                slots.remove(slot);
                Poll::Ready(result)
            }
            state => {
                *state = State::Pending(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }

    fn abandon(&self, slot: usize) {
        let mut slots = self.slots.borrow_mut();
        if let State::Done(_) = slots[slot].state {
            slots.remove(slot);
            return;
        }
        slots[slot].state = State::Abandoned;
        let operation = slots[slot].operation.as_ref();
        if operation.is_some_and(Operation::is_endless) {
            self.cancel(slot);
        }
    }

    /// Has an operation end that would wait for somebody else. Its completion still comes.
    fn cancel(&self, slot: usize) {
        match &mut *self.driver.borrow_mut() {
            Driver::Uring(uring) => uring.cancel(slot),
            Driver::Threads(waiting) => {
                waiting.retain(|&other| other != slot);
                self.done.borrow_mut().push(Completion::Operation {
                    slot,
                    result: -libc::ECANCELED,
                });
            }
            // Done as soon as it was submitted.
            Driver::Simulated(_) => {}
        }
    }

    /// Starts to watch an eventfd.
    pub(crate) fn watch(&self, event: Event) -> usize {
        let mut watches = self.watches.borrow_mut();
        let entry = watches.vacant_entry();
        let watch = entry.key();
        if let Driver::Uring(uring) = &mut *self.driver.borrow_mut() {
            uring.watch(event.as_raw_fd(), watch);
        }
        entry.insert(Watch {
            event,
            outcome: None,
            waker: None,
            armed: true,
            closed: false,
        });
        watch
    }

    pub(crate) fn poll_watch(
        &self,
        watch: usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let entry = &mut self.watches.borrow_mut()[watch];
        if let Some(outcome) = entry.outcome.take() {
            return Poll::Ready(outcome);
        }
        entry.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Stops watching; the entry stays until the kernel has let go of it.
    pub(crate) fn unwatch(&self, watch: usize) {
        let mut watches = self.watches.borrow_mut();
        if let Driver::Uring(uring) = &mut *self.driver.borrow_mut()
            && watches[watch].armed
        {
            watches[watch].closed = true;
            uring.unwatch(watch);
        } else {
            watches.remove(watch);
        }
    }

    fn signal(&self, watch: usize, result: i32, more: bool) {
        let mut watches = self.watches.borrow_mut();
        let entry = &mut watches[watch];
        if entry.closed {
            if !more {
                watches.remove(watch);
            }
            return;
        }
        entry.outcome = Some(operation::outcome(result).map(drop));
        entry.armed = more || result >= 0;
        if let Driver::Uring(uring) = &mut *self.driver.borrow_mut()
            && entry.armed
            && !more
        {
            uring.watch(entry.event.as_raw_fd(), watch);
        }
        let waker = entry.waker.take();
        drop(watches);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Reactor {
    /// Waits for what is in flight, for its memory goes with us.
    fn drop(&mut self) {
        while self.in_flight.get() > 0 {
            self.turn(|| true);
        }
    }
}
