//! Serving the queues, from the driver's start of the device to its reset.
//!
//! ```text
//!   doorbell ──> queue task ──pop, parse──> request task ──> disk
//!                                               │
//!               driver <──interrupt── push <────┘
//! ```
//! All of it are tasks on the device's I/O thread, which sleeps in one place.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use disk::EventReceiver;
use vm_memory::Bytes;
use vmm_sys_util::eventfd::EventFd;

use super::execute::{Backend, Outcome};
use super::request::{Limits, Request, Status};
use super::statistics::Counters;
use crate::virtio::chain::Violation;
use crate::virtio::device::Notifier;
use crate::virtio::virtqueue::Virtqueue;

/// A queue and the event its driver signals.
pub(super) struct Served {
    pub(super) queue: Virtqueue,
    pub(super) doorbell: Arc<EventFd>,
}

/// The time between an activation and the reset that ends it.
pub(super) struct Session {
    backend: Rc<Backend>,
    limits: Limits,
    notifier: Arc<dyn Notifier>,
    doorbells: Vec<Arc<EventFd>>,
    /// No more requests are taken: the driver resets the device, or broke the rules.
    stopped: Cell<bool>,
    /// Tasks that touch queues or guest memory.
    running: Cell<usize>,
    /// Who waits for the last of them.
    idle: RefCell<Option<Waker>>,
}

impl Session {
    /// Starts a task for each queue.
    pub(super) fn start(
        backend: Rc<Backend>,
        limits: Limits,
        notifier: Arc<dyn Notifier>,
        queues: Vec<Served>,
    ) -> Rc<Self> {
        let session = Rc::new(Self {
            backend,
            limits,
            notifier,
            doorbells: queues
                .iter()
                .map(|served| Arc::clone(&served.doorbell))
                .collect(),
            stopped: Cell::new(false),
            running: Cell::new(0),
            idle: RefCell::default(),
        });
        for Served { queue, doorbell } in queues {
            let task = Running::new(&session);
            disk::spawn(async move { task.session.serve(queue, doorbell).await });
        }
        session
    }

    /// Takes no more requests, and returns when those in flight are answered.
    pub(super) async fn stop(&self) {
        self.stopped.set(true);
        for doorbell in &self.doorbells {
            // A counter that is full has a signal to be seen already.
            let _ = doorbell.write(1);
        }
        poll_fn(|context| {
            if self.running.get() == 0 {
                return Poll::Ready(());
            }
            *self.idle.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn serve(self: &Rc<Self>, queue: Virtqueue, doorbell: Arc<EventFd>) {
        let doorbell = EventReceiver::new(doorbell);
        let queue = Rc::new(RefCell::new(queue));
        loop {
            if let Err(violation) = self.take_requests(&queue) {
                self.give_up(&violation);
            }
            if self.stopped.get() {
                return;
            }
            if let Err(error) = doorbell.recv().await {
                return self.give_up(&error);
            }
            Counters::add(&self.backend.counters.doorbells, 1);
        }
    }

    /// Starts every request that the driver has made available. There are at most as many in
    /// flight as the queue has descriptors, so that this ends whatever the driver does.
    fn take_requests(self: &Rc<Self>, queue: &Rc<RefCell<Virtqueue>>) -> Result<(), Violation> {
        while !self.stopped.get() {
            let mut borrowed = queue.borrow_mut();
            let Some(chain) = borrowed.pop()? else { break };
            let request = Request::parse(chain, borrowed.memory(), &self.limits)?;
            let task = Running::new(self);
            let queue = Rc::clone(queue);
            disk::spawn(async move { task.session.answer(request, &queue).await });
        }
        Ok(())
    }

    async fn answer(&self, request: Request, queue: &RefCell<Virtqueue>) {
        let Request {
            head,
            status,
            writable_bytes,
            command,
        } = request;
        let memory = Arc::clone(queue.borrow().memory());
        let outcome = match command {
            Ok(command) => self.backend.execute(command, &memory).await,
            Err(status) => Outcome::failed(status),
        };
        let counters = &self.backend.counters;
        if outcome.status != Status::Ok {
            Counters::add(&counters.errors, 1);
        }
        // The used length counts what is written from the first byte on (virtio 1.2 section
        // 2.7.8.2): the status only if the data before it is.
        let status_bytes = u64::from(outcome.data_bytes == writable_bytes);
        let written_bytes = u32::try_from(outcome.data_bytes + status_bytes).unwrap_or(0);
        let pushed = memory
            .write_obj(outcome.status.byte(), status)
            .map_err(|_| Violation::OutsideMemory)
            .and_then(|()| queue.borrow_mut().push(head, written_bytes));
        let counter = match pushed {
            Ok(true) => &counters.interrupts,
            Ok(false) => &counters.interrupts_saved,
            Err(violation) => return self.give_up(&violation),
        };
        Counters::add(counter, 1);
    }

    /// Leaves the device to be reset by its driver (virtio 1.2 section 2.1.2).
    fn give_up(&self, reason: &dyn Display) {
        if !self.stopped.replace(true) {
            let device = self.backend.name.as_str();
            if self.backend.broken.replace(true) {
                tracing::debug!(device, %reason, "stopped until a reset");
            } else {
                tracing::warn!(device, %reason, "stopped until a reset");
            }
            self.notifier.needs_reset();
        }
    }
}

/// Counts a task for as long as it lives.
struct Running {
    session: Rc<Session>,
}

impl Running {
    fn new(session: &Rc<Session>) -> Self {
        session.running.set(session.running.get() + 1);
        Self {
            session: Rc::clone(session),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let running = self.session.running.get() - 1;
        self.session.running.set(running);
        if running == 0
            && let Some(idle) = self.session.idle.borrow_mut().take()
        {
            idle.wake();
        }
    }
}
