//! What is sent to a client.
//!
//! Replies that are ready at the same time leave with one system call. Whoever has replies tries to
//! send them at once; what the socket has no room for is left to a task that waits for room.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use disk::Buffers;

use super::budget::Permit;
use super::link::{Link, Sent};
use crate::export::Notify;

/// Sent at once at most: more would wait in the client's socket anyway.
const BATCH_MAX_BYTES: usize = 256 << 10;
const BATCH_MAX_REPLIES: usize = 64;

/// Sends to one client. Replies are whole, and in the order in which they are pushed.
pub(super) struct Outbox {
    link: Rc<Link>,
    queue: RefCell<VecDeque<(Buffers, Permit)>>,
    /// The batch that is partly sent: what is missing, and what ends with it.
    current: RefCell<Option<(Buffers, Vec<Permit>)>>,
    queued_bytes: Cell<usize>,
    /// See [`Self::has_failed`].
    failed: Cell<bool>,
    closed: Cell<bool>,
    work: Notify,
}

impl Outbox {
    pub(super) fn new(link: Rc<Link>) -> Self {
        Self {
            link,
            queue: RefCell::default(),
            current: RefCell::default(),
            queued_bytes: Cell::new(0),
            failed: Cell::new(false),
            closed: Cell::new(false),
            work: Notify::default(),
        }
    }

    /// Queues a reply. Its request is over when it is sent.
    pub(super) fn push(&self, reply: Buffers, permit: Permit) {
        if !self.failed.get() {
            self.queued_bytes.set(self.queued_bytes.get() + reply.len());
            self.queue.borrow_mut().push_back((reply, permit));
        }
    }

    /// Whether so much is queued that it should be sent before there is more.
    pub(super) fn is_full(&self) -> bool {
        self.queued_bytes.get() >= BATCH_MAX_BYTES || self.queue.borrow().len() >= BATCH_MAX_REPLIES
    }

    /// Whether the client takes nothing any more: what it still asks for is done for nobody.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Lets the sending task send what is queued, after the other tasks that are ready now: they
    /// may have replies too.
    pub(super) fn send_soon(&self) {
        self.work.notify();
    }

    /// Sends what is queued as far as there is room, and leaves the rest to the sending task.
    pub(super) fn send_now(&self) {
        match self.try_send() {
            Ok(true) => {}
            Ok(false) => self.work.notify(),
            Err(error) => self.fail(&error),
        }
    }

    /// The sending task; ends when the outbox is closed and nothing is left to send.
    pub(super) async fn run(&self) {
        loop {
            let sent = match self.try_send() {
                Ok(true) if self.closed.get() => return,
                Ok(true) => {
                    self.work.wait().await;
                    continue;
                }
                Ok(false) => self.link.writable().await,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                self.fail(&error);
            }
        }
    }

    /// Has the sending task end once it has sent everything.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.work.notify();
    }

    /// Sends without waiting; false if there was not room for all.
    fn try_send(&self) -> io::Result<bool> {
        loop {
            let current = self.current.take();
            let Some((data, permits)) = current.or_else(|| self.next_batch()) else {
                return Ok(true);
            };
            match self.link.try_send(&data)? {
                Sent::All => {}
                Sent::Part(count) => {
                    // The socket is full.
                    let rest = data.slice(count..data.len());
                    *self.current.borrow_mut() = Some((rest, permits));
                    return Ok(false);
                }
            }
        }
    }

    fn next_batch(&self) -> Option<(Buffers, Vec<Permit>)> {
        let mut queue = self.queue.borrow_mut();
        let (first, permit) = queue.pop_front()?;
        let mut bytes = first.len();
        let mut permits = vec![permit];
        let mut replies = vec![first];
        while let Some((next, _)) = queue.front()
            && replies.len() < BATCH_MAX_REPLIES
            && bytes + next.len() <= BATCH_MAX_BYTES
            && let Some((reply, permit)) = queue.pop_front()
        {
            bytes += reply.len();
            replies.push(reply);
            permits.push(permit);
        }
        self.queued_bytes.set(self.queued_bytes.get() - bytes);
        let data = match replies.pop() {
            Some(only) if replies.is_empty() => only,
            Some(last) => Buffers::concat(replies.into_iter().chain([last])),
            None => return None,
        };
        Some((data, permits))
    }

    /// Gives up on a client that has gone: nothing more is received from it either.
    fn fail(&self, error: &io::Error) {
        tracing::debug!(%error, "cannot send to an NBD client");
        self.failed.set(true);
        self.queued_bytes.set(0);
        let dropped = (self.queue.take(), self.current.take());
        drop(dropped);
        self.link.shutdown();
    }
}
