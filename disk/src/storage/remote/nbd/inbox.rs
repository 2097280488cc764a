//! What a server sends.
//!
//! It is received into memory of our own and copied from there, never straight to where it is wanted:
//! whoever wanted it may have given up, and use the memory for something else.

use std::io;
use std::rc::Rc;

use zerocopy::FromBytes;

use crate::{Buffers, Stream};

/// The memory for what is received at once.
const ROOM_BYTES: usize = 256 << 10;

/// Receives from one server.
pub(super) struct Inbox {
    stream: Rc<Stream>,
    room: Buffers,
    /// What was received last,
    bytes: Vec<u8>,
    /// and where in it what nobody has taken begins.
    start: usize,
}

impl Inbox {
    pub(super) fn new(stream: Rc<Stream>) -> Self {
        Self {
            stream,
            room: Buffers::zeroed(ROOM_BYTES),
            bytes: Vec::new(),
            start: 0,
        }
    }

    /// The next bytes as a `T`.
    pub(super) async fn take<T: FromBytes>(&mut self) -> io::Result<T> {
        self.fill(size_of::<T>()).await?;
        let taken = &self.bytes[self.start..self.start + size_of::<T>()];
        let value = T::read_from_bytes(taken).map_err(|_| io::ErrorKind::InvalidData)?;
        self.start += size_of::<T>();
        Ok(value)
    }

    /// The next bytes as a `T`, which are taken later.
    pub(super) async fn peek<T: FromBytes>(&mut self) -> io::Result<T> {
        let value = self.take().await;
        if value.is_ok() {
            self.start -= size_of::<T>();
        }
        value
    }

    /// The next bytes, of which the caller knows that they are few.
    pub(super) async fn take_bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut taken = Vec::with_capacity(len);
        self.take_pieces(len as u64, |_, piece| taken.extend_from_slice(piece))
            .await?;
        Ok(taken)
    }

    /// Shows `visit` the next bytes piece by piece, with where each is within them.
    pub(super) async fn take_pieces(
        &mut self,
        len: u64,
        mut visit: impl FnMut(u64, &[u8]),
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            self.fill(1).await?;
            let there = &self.bytes[self.start..];
            let count =
                usize::try_from(len - done).map_or(there.len(), |left| left.min(there.len()));
            visit(done, &there[..count]);
            self.start += count;
            done += count as u64;
        }
        Ok(())
    }

    /// Receives until `len` bytes are there.
    async fn fill(&mut self, len: usize) -> io::Result<()> {
        while self.bytes.len() - self.start < len {
            let count = self.stream.receive(self.room.clone()).await?;
            if count == 0 {
                let closed = "the server has closed the connection";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, closed));
            }
            self.bytes.drain(..self.start);
            let kept = self.bytes.len();
            self.start = 0;
            self.bytes.resize(kept + count, 0);
            self.room.slice(0..count).copy_to(&mut self.bytes[kept..]);
        }
        Ok(())
    }
}
