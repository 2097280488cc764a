//! A client's connection within TLS.
//!
//! ```text
//!   Stream ──> Received ──> session ──> Inbox       decrypted a record at a time
//!   Stream <── session <── scratch <── Outbox       encrypted while there is room to send
//! ```
//! The session is a state machine that does no I/O. What it holds is bounded: a record or a
//! handshake message on the way in, and on the way out one piece, for the next is encrypted only
//! when the socket has taken the last.

use std::cell::RefCell;
use std::io::{self, BufRead as _, ErrorKind, IoSlice, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

use disk::{Buffers, Stream};
use rustls::{ServerConfig, ServerConnection};

use super::end::End;
use super::link::Sent;

/// Received at a time, and encrypted at a time: four of the longest records.
const PIECE_BYTES: usize = 64 << 10;

/// A connection whose handshake is over.
pub(super) struct Tls {
    stream: Rc<Stream>,
    session: RefCell<ServerConnection>,
    received: RefCell<Received>,
    /// A piece in clear, for the session does not read from [`Buffers`].
    scratch: RefCell<Vec<u8>>,
}

/// What has been received and not been decrypted.
struct Received {
    memory: Buffers,
    start: usize,
    end: usize,
}

impl Tls {
    /// Does the handshake with a client that is about to begin it.
    pub(super) async fn accept(stream: Rc<Stream>, config: Arc<ServerConfig>) -> Result<Self, End> {
        let session = ServerConnection::new(config).map_err(io::Error::other);
        let tls = Self {
            stream,
            session: RefCell::new(session.map_err(End::Tls)?),
            received: RefCell::new(Received::nothing()),
            scratch: RefCell::new(vec![0; PIECE_BYTES]),
        };
        loop {
            while !tls.flush()? {
                tls.stream.writable().await?;
            }
            if !tls.session.borrow().is_handshaking() {
                return Ok(tls);
            }
            if !tls.decrypt().map_err(End::Tls)? && !tls.take_in().await? {
                return Err(End::Closed);
            }
        }
    }

    /// What it travels on.
    pub(super) fn stream(&self) -> &Rc<Stream> {
        &self.stream
    }

    /// As [`Link::receive`](super::link::Link::receive).
    pub(super) async fn receive(&self, room: &Buffers) -> io::Result<usize> {
        loop {
            if let Some(count) = self.read(room)? {
                return Ok(count);
            }
            // The end may come without a farewell: requests say themselves where they end.
            if !self.decrypt()? && !self.take_in().await? {
                return Ok(0);
            }
        }
    }

    /// As [`Link::try_send`](super::link::Link::try_send).
    pub(super) fn try_send(&self, data: &Buffers) -> io::Result<Sent> {
        let mut done = 0;
        loop {
            if !self.flush()? {
                return Ok(Sent::Part(done));
            }
            if done == data.len() {
                return Ok(Sent::All);
            }
            let end = data.len().min(done + PIECE_BYTES);
            match self.encrypt(&data.slice(done..end))? {
                0 => return Err(ErrorKind::WriteZero.into()),
                count => done += count,
            }
        }
    }

    /// Says farewell (`close_notify`), if there is room for it.
    pub(super) fn finish(&self) {
        self.session.borrow_mut().send_close_notify();
        // Whoever has gone misses nothing.
        let _ = self.flush();
    }

    /// Takes what is decrypted; 0 bytes after the client's farewell, none if there is nothing yet.
    fn read(&self, room: &Buffers) -> io::Result<Option<usize>> {
        let mut session = self.session.borrow_mut();
        let mut reader = session.reader();
        let text = match reader.fill_buf() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            filled => filled?,
        };
        let count = text.len().min(room.len());
        room.slice(0..count).copy_from(&text[..count]);
        reader.consume(count);
        Ok(Some(count))
    }

    /// Decrypts something of what was received, unless there is nothing. Who breaks the rules of
    /// TLS is told so, if there is room.
    fn decrypt(&self) -> io::Result<bool> {
        let mut received = self.received.borrow_mut();
        if received.start == received.end {
            return Ok(false);
        }
        let processed = {
            let mut session = self.session.borrow_mut();
            if session.read_tls(&mut *received)? == 0 {
                return Err(ErrorKind::InvalidData.into());
            }
            session.process_new_packets()
        };
        let flushed = self.flush();
        processed.map_err(io::Error::other)?;
        flushed.map(|_| true)
    }

    /// Receives something; false at the end.
    async fn take_in(&self) -> io::Result<bool> {
        let memory = self.received.borrow().memory.clone();
        let count = self.stream.receive(memory).await?;
        let mut received = self.received.borrow_mut();
        (received.start, received.end) = (0, count);
        Ok(count > 0)
    }

    /// Encrypts as much as the session takes, and returns how much that is.
    fn encrypt(&self, text: &Buffers) -> io::Result<usize> {
        let mut scratch = self.scratch.borrow_mut();
        let scratch = &mut scratch[..text.len()];
        text.copy_to(scratch);
        self.session.borrow_mut().writer().write(scratch)
    }

    /// Sends what is encrypted, as far as there is room; whether that was all.
    fn flush(&self) -> io::Result<bool> {
        let mut session = self.session.borrow_mut();
        while session.wants_write() {
            match session.write_tls(&mut Socket(&self.stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Received {
    fn nothing() -> Self {
        Self {
            memory: Buffers::zeroed(PIECE_BYTES),
            start: 0,
            end: 0,
        }
    }
}

impl Read for Received {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = target.len().min(self.end - self.start);
        let piece = self.memory.slice(self.start..self.start + count);
        piece.copy_to(&mut target[..count]);
        self.start += count;
        Ok(count)
    }
}

/// Takes what there is room for.
struct Socket<'a>(&'a Stream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.0.try_send_slices(slices)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
