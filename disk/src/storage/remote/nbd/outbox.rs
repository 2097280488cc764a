//! What is sent to a server: requests, which are short.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::executor::spawn;
use crate::{Buffers, Stream};

/// Sends to one server, one request behind the other.
pub(super) struct Outbox {
    stream: Rc<Stream>,
    /// What there was no room for yet.
    waiting: RefCell<Vec<u8>>,
    is_sending: Cell<bool>,
}

impl Outbox {
    pub(super) fn new(stream: Rc<Stream>) -> Rc<Self> {
        Rc::new(Self {
            stream,
            waiting: RefCell::default(),
            is_sending: Cell::new(false),
        })
    }

    /// Sends `bytes`, now or when there is room. If they cannot be sent, the connection ends, and
    /// whoever receives from it hears of that.
    pub(super) fn send(self: &Rc<Self>, bytes: &[u8]) {
        self.waiting.borrow_mut().extend_from_slice(bytes);
        if self.is_sending.replace(true) {
            return;
        }
        let outbox = Rc::clone(self);
        spawn(async move {
            while !outbox.waiting.borrow().is_empty() {
                let bytes = outbox.waiting.take();
                if outbox.stream.send(Buffers::from_vec(bytes)).await.is_err() {
                    outbox.stream.shutdown();
                    outbox.waiting.take();
                }
            }
            outbox.is_sending.set(false);
        });
    }
}
