//! An export of an NBD server.
//!
//! ```text
//!   read ──split──> Session ──Outbox──> server
//!                      ^                   │
//!                      └── receive ── Inbox┘
//! ```
//! One connection has any number of requests on their way, and answers come in whatever order the
//! server likes. A connection that is lost takes all of them with it; they are tried again on the next
//! one, which all that wait share. What a server sends that makes no sense loses its connection.
//!
//! The protocol is specified in `doc/proto.md` of the NBD project.

mod connect;
mod extents;
mod handshake;
mod inbox;
mod outbox;
mod receive;
mod reply;
mod session;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{LocalBoxFuture, Shared};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use super::address::NbdAddress;
use super::source::{Failure, Source};
use super::ticker::Ticker;
use crate::mutant::mutant;
use crate::storage::StorageExtent;
use crate::{BoxFuture, Buffers};
use extents::Extents;
use session::Session;

/// How many parts of one read are on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// A status is asked of at least so much, for it will be wanted soon,
const STATUS_MIN_BYTES: u64 = 64 << 20;
/// and of at most so much.
const STATUS_MAX_BYTES: u64 = 1 << 30;

/// An export, with the connection to its server, or without where that is lost.
pub(super) struct Nbd {
    address: NbdAddress,
    ticker: Rc<Ticker>,
    silence: Duration,
    size_bytes: u64,
    link: RefCell<Link>,
    /// What the server said last of holes and zeros.
    extents: RefCell<Extents>,
}

/// A connection that is there, or is being made, for all that wait for it.
type Link = Shared<LocalBoxFuture<'static, Result<Rc<Session>, String>>>;

impl Nbd {
    /// Connects to the server.
    pub(super) async fn open(
        address: NbdAddress,
        ticker: Rc<Ticker>,
        silence: Duration,
    ) -> Result<Self, String> {
        let link = link(&address, &ticker, silence);
        let size_bytes = link.clone().await?.terms.size_bytes;
        Ok(Self {
            address,
            ticker,
            silence,
            size_bytes,
            link: RefCell::new(link),
            extents: RefCell::default(),
        })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The connection there is, or else a new one.
    async fn session(&self) -> Result<Rc<Session>, Failure> {
        let mut link = self.link.borrow().clone();
        if is_spent(&link) {
            link = self::link(&self.address, &self.ticker, self.silence);
            *self.link.borrow_mut() = link.clone();
        }
        let session = link.await.map_err(Failure::Passing)?;
        let (had, has) = (self.size_bytes, session.terms.size_bytes);
        if has != had && !mutant("another size of what an NBD server has is believed") {
            session.close();
            return Err(Failure::Changed(format!(
                "it had {had} bytes, and has {has}"
            )));
        }
        Ok(session)
    }

    async fn read_parts(&self, offset: u64, buffers: &Buffers) -> Result<(), Failure> {
        let session = self.session().await?;
        let range = offset..offset + buffers.len() as u64;
        let (minimum, maximum) = (session.terms.minimum_bytes, session.terms.maximum_bytes);
        let whole = self.aligned(&range, minimum);
        let starts = (whole.start..whole.end).step_by(maximum as usize);
        let parts = starts.map(|start| start..whole.end.min(start + u64::from(maximum)));
        stream::iter(parts)
            .map(|part| session.read(part, buffers.clone(), offset))
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect::<()>()
            .await
    }

    /// The smallest range around `range` that the server takes.
    fn aligned(&self, range: &Range<u64>, minimum: u32) -> Range<u64> {
        let minimum = u64::from(minimum);
        let start = range.start - range.start % minimum;
        let end = range.end.checked_next_multiple_of(minimum);
        start..end.map_or(self.size_bytes, |end| end.min(self.size_bytes))
    }

    async fn find_extent(&self, offset: u64, len: u64) -> Result<StorageExtent, Failure> {
        if let Some(extent) = self.extents.borrow().at(offset, len) {
            return Ok(extent);
        }
        let session = self.session().await?;
        if session.terms.allocation.is_none() {
            return Ok(StorageExtent { len, data: true });
        }
        let asked = len.clamp(STATUS_MIN_BYTES, STATUS_MAX_BYTES);
        let asked = offset..offset.saturating_add(asked).min(self.size_bytes);
        let asked = self.aligned(&asked, session.terms.minimum_bytes);
        let found = Extents::new(asked.start, session.status(asked).await?);
        // It says at least something of where it was asked.
        let extent = found.at(offset, len);
        self.extents.replace(found);
        extent.ok_or_else(|| Failure::Passing("the server has sent half a status".to_owned()))
    }
}

/// Begins to connect.
fn link(address: &NbdAddress, ticker: &Rc<Ticker>, silence: Duration) -> Link {
    Session::establish(address.clone(), Rc::clone(ticker), silence)
        .boxed_local()
        .shared()
}

/// Whether nothing comes by it any more.
fn is_spent(link: &Link) -> bool {
    match link.peek() {
        None => false,
        Some(Ok(session)) => session.is_lost(),
        Some(Err(_)) => true,
    }
}

impl Source for Nbd {
    fn read(&self, offset: u64, buffers: Buffers) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move { self.read_parts(offset, &buffers).await })
    }

    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<StorageExtent, Failure>> {
        Box::pin(self.find_extent(offset, len))
    }

    fn close(&self) {
        if let Some(Ok(session)) = self.link.borrow().peek() {
            session.close();
        }
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        self.close();
    }
}
