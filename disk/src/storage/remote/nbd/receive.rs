//! Answers: what they are to, and what they say.

use std::io;
use std::rc::Rc;

use zerocopy::FromBytes as _;
use zerocopy::byteorder::network_endian::{U16, U32, U64};

use super::inbox::Inbox;
use super::reply::{EXTENTS_MAX, Kind, Pending};
use super::session::Session;
use crate::mutant::mutant;
use crate::nbd::{
    CHUNK_MAGIC, ChunkHeader, Descriptor, Errno, SIMPLE_REPLY_MAGIC, SimpleReply, chunk, state,
};
use crate::storage::StorageExtent;
use crate::storage::remote::source::{Failure, printable};

/// The longest error message that is listened to, with what is around it.
const ERROR_MAX_BYTES: u32 = 64 << 10;

/// Receives answers until the connection ends, which one that makes no sense makes it do.
pub(super) async fn receive(session: Rc<Session>, inbox: Inbox) {
    let mut receiver = Receiver {
        session: &session,
        inbox,
    };
    let error = loop {
        if let Err(error) = receiver.answer().await {
            break error;
        }
    };
    session.lose(&error.to_string());
}

struct Receiver<'a> {
    session: &'a Session,
    inbox: Inbox,
}

impl Receiver<'_> {
    async fn answer(&mut self) -> io::Result<()> {
        match self.inbox.peek::<U32>().await?.get() {
            SIMPLE_REPLY_MAGIC => self.simple_reply().await,
            CHUNK_MAGIC if self.session.terms.is_structured => self.chunk().await,
            _ => Err(nonsense("what is no answer")),
        }
    }

    async fn simple_reply(&mut self) -> io::Result<()> {
        let reply: SimpleReply = self.inbox.take().await?;
        let (cookie, error) = (reply.cookie.get(), reply.error.get());
        if error != 0 {
            self.pending(cookie, |pending| pending.error = Some(describe(error, &[])))?;
            return self.finish(cookie);
        }
        if self.session.terms.is_structured {
            return Err(nonsense(
                "a simple answer, though it agreed to structured ones",
            ));
        }
        let range = self.pending(cookie, |pending| pending.range.clone())?;
        self.data(cookie, range.start, range.end - range.start)
            .await?;
        self.finish(cookie)
    }

    async fn chunk(&mut self) -> io::Result<()> {
        let header: ChunkHeader = self.inbox.take().await?;
        let (cookie, len) = (header.cookie.get(), header.len.get());
        let is_last = header.flags.get() & chunk::FLAG_DONE != 0;
        match header.kind.get() {
            chunk::NONE if len == 0 && is_last => self.pending(cookie, |_| ())?,
            chunk::OFFSET_DATA if len > 8 => {
                let offset = self.inbox.take::<U64>().await?.get();
                self.data(cookie, offset, u64::from(len) - 8).await?;
            }
            chunk::OFFSET_HOLE if len == 12 => {
                let offset = self.inbox.take::<U64>().await?.get();
                let len = self.inbox.take::<U32>().await?.get();
                self.hole(cookie, offset, len.into())?;
            }
            chunk::BLOCK_STATUS if len >= 12 && len % 8 == 4 => {
                self.status(cookie, u64::from(len) - 4).await?;
            }
            kind if kind & chunk::ERROR_BIT != 0 && (6..=ERROR_MAX_BYTES).contains(&len) => {
                let data = self.inbox.take_bytes(len as usize).await?;
                self.pending(cookie, |pending| pending.error = Some(error(&data)))?;
            }
            _ => return Err(nonsense("a chunk that cannot be")),
        }
        if is_last {
            self.finish(cookie)?;
        }
        Ok(())
    }

    async fn data(&mut self, cookie: u64, offset: u64, len: u64) -> io::Result<()> {
        let end = self.expect(cookie, offset, len)?;
        let session = self.session;
        let visit = |at, piece: &[u8]| {
            session.note_progress();
            session.with_pending(cookie, |pending| pending.put(offset + at, piece));
        };
        self.inbox.take_pieces(len, visit).await?;
        self.pending(cookie, |pending| pending.note(offset..end))
    }

    fn hole(&mut self, cookie: u64, offset: u64, len: u64) -> io::Result<()> {
        let end = self.expect(cookie, offset, len)?;
        self.pending(cookie, |pending| {
            pending.put_zeros(offset..end);
            pending.note(offset..end);
        })
    }

    /// Where what comes now ends, if somebody waits for it.
    fn expect(&self, cookie: u64, offset: u64, len: u64) -> io::Result<u64> {
        let end = offset.checked_add(len);
        let end = end.ok_or_else(|| nonsense("data from behind all ends"))?;
        if self.pending(cookie, |pending| pending.expects(&(offset..end)))? {
            Ok(end)
        } else {
            Err(nonsense("data that nobody has asked for"))
        }
    }

    async fn status(&mut self, cookie: u64, mut left: u64) -> io::Result<()> {
        let context = self.inbox.take::<U32>().await?.get();
        let wanted = self.pending(
            cookie,
            |pending| matches!(&pending.kind, Kind::Status { extents } if extents.is_empty()),
        )?;
        if !wanted || Some(context) != self.session.terms.allocation {
            return Err(nonsense("a status that nobody has asked for"));
        }
        let mut extents: Vec<StorageExtent> = Vec::new();
        while left > 0 {
            let descriptor: Descriptor = self.inbox.take().await?;
            left -= size_of::<Descriptor>() as u64;
            let len = u64::from(descriptor.len.get());
            if len == 0 {
                return Err(nonsense("a status of nothing"));
            }
            let data = descriptor.state.get() & state::ZERO == 0;
            let count = extents.len();
            match extents.last_mut() {
                Some(last) if last.data == data => last.len = last.len.saturating_add(len),
                _ if count < EXTENTS_MAX => extents.push(StorageExtent { len, data }),
                // What is behind it is not known, whatever it is.
                _ => break,
            }
        }
        self.inbox.take_pieces(left, |_, _| ()).await?;
        self.pending(cookie, |pending| pending.kind = Kind::Status { extents })
    }

    fn finish(&self, cookie: u64) -> io::Result<()> {
        let pending = self.session.take_pending(cookie).ok_or_else(unknown)?;
        self.session.note_progress();
        let is_whole = pending.is_whole();
        let Pending {
            kind, error, reply, ..
        } = pending;
        if let Some(error) = error {
            reply.finish(Err(Failure::Passing(error)));
            return Ok(());
        }
        if !is_whole && !mutant("half an answer of an NBD server is believed") {
            // Whoever waits for it hears of it as of any other that is lost.
            let error = nonsense("half an answer");
            reply.finish(Err(Failure::Passing(error.to_string())));
            return Err(error);
        }
        reply.finish(Ok(match kind {
            Kind::Read { .. } => Vec::new(),
            Kind::Status { extents } => extents,
        }));
        Ok(())
    }

    fn pending<T>(&self, cookie: u64, change: impl FnOnce(&mut Pending) -> T) -> io::Result<T> {
        let changed = self.session.with_pending(cookie, change);
        changed.ok_or_else(unknown)
    }
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the server has sent {what}"),
    )
}

fn unknown() -> io::Error {
    nonsense("an answer to what nobody has asked")
}

/// What an error chunk says.
fn error(data: &[u8]) -> String {
    let Ok((number, rest)) = U32::read_from_prefix(data) else {
        return describe(Errno::Io as u32, &[]);
    };
    let message = match U16::read_from_prefix(rest) {
        Ok((len, rest)) => rest.get(..usize::from(len.get())).unwrap_or_default(),
        Err(_) => &[],
    };
    describe(number.get(), message)
}

fn describe(number: u32, message: &[u8]) -> String {
    match printable(message) {
        message if message.is_empty() => format!("the server has the error {number}"),
        message => format!("the server has the error {number} ('{message}')"),
    }
}
