//! A connection on which many requests are on their way.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use zerocopy::IntoBytes as _;

use super::connect::connect;
use super::handshake::{Terms, handshake};
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::receive::receive;
use super::reply::{Kind, Pending, Reply};
use crate::executor::spawn;
use crate::nbd::{REQUEST_MAGIC, RequestHeader, command};
use crate::ranges::Ranges;
use crate::storage::StorageExtent;
use crate::storage::remote::address::NbdAddress;
use crate::storage::remote::source::Failure;
use crate::storage::remote::ticker::Ticker;
use crate::{Buffers, Stream};

/// The most requests that nobody waits for any more, and the server has not answered either.
const ABANDONED_MAX: usize = 256;

/// A connection to a server.
pub(super) struct Session {
    pub(super) terms: Terms,
    stream: Rc<Stream>,
    outbox: Rc<Outbox>,
    /// By their cookies, which are never used twice.
    pending: RefCell<HashMap<u64, Pending, foldhash::fast::RandomState>>,
    abandoned: Cell<usize>,
    next_cookie: Cell<u64>,
    /// Counts what the server has sent that somebody was waiting for.
    progress: Cell<u64>,
    ticker: Rc<Ticker>,
    silence: Duration,
    /// Why there will be no more answers.
    lost: RefCell<Option<String>>,
}

impl Session {
    /// Connects to the server at `address`. One that is silent for longer than `silence` is away,
    /// now and later.
    pub(super) async fn establish(
        address: NbdAddress,
        ticker: Rc<Ticker>,
        silence: Duration,
    ) -> Result<Rc<Self>, String> {
        let waiting = Rc::clone(&ticker);
        let begin = async move {
            let stream = connect(address.endpoint.clone(), silence).await?;
            let stream = Rc::new(stream);
            let mut inbox = Inbox::new(Rc::clone(&stream));
            let terms = handshake(&stream, &mut inbox, &address.export).await?;
            let session = Rc::new(Self {
                terms,
                outbox: Outbox::new(Rc::clone(&stream)),
                stream,
                pending: RefCell::default(),
                abandoned: Cell::new(0),
                next_cookie: Cell::new(1),
                progress: Cell::new(0),
                ticker,
                silence,
                lost: RefCell::default(),
            });
            spawn(receive(Rc::clone(&session), inbox));
            Ok(session)
        };
        match waiting.within(silence, begin).await {
            Some(result) => result.map_err(|error: std::io::Error| error.to_string()),
            None => Err(silent(silence)),
        }
    }

    /// Whether there will be no more answers.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    /// Reads `range`, of which `target` from `target_offset` on is wanted.
    pub(super) async fn read(
        &self,
        range: Range<u64>,
        target: Buffers,
        target_offset: u64,
    ) -> Result<(), Failure> {
        let kind = Kind::Read {
            target: Some(target),
            target_offset,
            received: Ranges::default(),
        };
        self.request(command::READ, range, kind).await.map(drop)
    }

    /// What `range` is made of, as far as the server says it at once; at least something.
    pub(super) async fn status(&self, range: Range<u64>) -> Result<Vec<StorageExtent>, Failure> {
        let kind = Kind::Status {
            extents: Vec::new(),
        };
        self.request(command::BLOCK_STATUS, range, kind).await
    }

    /// Ends the connection, and with it every request.
    pub(super) fn lose(&self, why: &str) {
        if self.lost.borrow().is_some() {
            return;
        }
        self.lost.replace(Some(why.to_owned()));
        self.stream.shutdown();
        for (_, pending) in self.pending.take() {
            pending.reply.finish(Err(Failure::Passing(why.to_owned())));
        }
    }

    /// Says goodbye.
    pub(super) fn close(&self) {
        let header = header(command::DISCONNECT, 0, &(0..0));
        // A server that hears nothing of it sees the end of the connection.
        let _ = self.stream.try_send(&Buffers::from_vec(header.as_bytes()));
        self.lose("the image is closed");
    }

    /// Notes that the server has sent something that somebody was waiting for.
    pub(super) fn note_progress(&self) {
        self.progress.set(self.progress.get().wrapping_add(1));
    }

    /// Does something with what waits for the answer with this cookie.
    pub(super) fn with_pending<T>(
        &self,
        cookie: u64,
        change: impl FnOnce(&mut Pending) -> T,
    ) -> Option<T> {
        self.pending.borrow_mut().get_mut(&cookie).map(change)
    }

    /// Takes out what waited for the answer with this cookie.
    pub(super) fn take_pending(&self, cookie: u64) -> Option<Pending> {
        let pending = self.pending.borrow_mut().remove(&cookie)?;
        if pending.is_abandoned {
            self.abandoned.set(self.abandoned.get() - 1);
        }
        Some(pending)
    }

    async fn request(
        &self,
        command: u16,
        range: Range<u64>,
        kind: Kind,
    ) -> Result<Vec<StorageExtent>, Failure> {
        if let Some(why) = &*self.lost.borrow() {
            return Err(Failure::Passing(why.clone()));
        }
        let cookie = self.next_cookie.get();
        self.next_cookie.set(cookie + 1);
        let reply = Rc::new(Reply::default());
        let header = header(command, cookie, &range);
        let pending = Pending {
            range,
            kind,
            error: None,
            is_abandoned: false,
            reply: Rc::clone(&reply),
        };
        self.pending.borrow_mut().insert(cookie, pending);
        let _waiting = Waiting {
            session: self,
            cookie,
        };
        self.outbox.send(header.as_bytes());
        self.answer(&reply).await
    }

    /// Waits for an answer as long as the server says anything that somebody waits for.
    async fn answer(&self, reply: &Reply) -> Result<Vec<StorageExtent>, Failure> {
        loop {
            let before = self.progress.get();
            if let Some(outcome) = self.ticker.within(self.silence, reply.wait()).await {
                return outcome;
            }
            if self.progress.get() == before {
                self.lose(&silent(self.silence));
            }
        }
    }

    fn abandon(&self, cookie: u64) {
        if self.with_pending(cookie, Pending::abandon).is_none() {
            return;
        }
        self.abandoned.set(self.abandoned.get() + 1);
        if self.abandoned.get() > ABANDONED_MAX {
            self.lose("the server leaves too many requests without an answer");
        }
    }
}

fn header(command: u16, cookie: u64, range: &Range<u64>) -> RequestHeader {
    let len = u32::try_from(range.end - range.start).expect("a part of a request");
    RequestHeader {
        magic: REQUEST_MAGIC.into(),
        flags: 0.into(),
        command: command.into(),
        cookie: cookie.into(),
        offset: range.start.into(),
        len: len.into(),
    }
}

fn silent(silence: Duration) -> String {
    format!("the server was silent for {} s", silence.as_secs_f64())
}

/// Somebody who waits for an answer.
struct Waiting<'a> {
    session: &'a Session,
    cookie: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // There is nothing to abandon once the answer has come.
        self.session.abandon(self.cookie);
    }
}
