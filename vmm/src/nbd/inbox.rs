//! What a client sends.
//!
//! It is received in large pieces: often a request and its data, or a dozen requests, come with
//! one system call. Data that is in such a piece stays there and is written to the disk from there.

use std::rc::Rc;

use disk::Buffers;
use disk::nbd::RequestHeader;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::end::End;
use super::link::Link;
use crate::export::Pool;

/// The memory for one piece.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that are kept.
const PIECES_MAX: usize = 8;
/// Where a piece starts in its memory: the data of the first request is aligned then.
const PIECE_START: usize = 4096 - size_of::<RequestHeader>();
/// With less room than this, the next piece goes elsewhere.
const ROOM_MIN: usize = 64 << 10;
/// Longer data has memory of its own, and most of it is received there.
const INLINE_MAX_BYTES: usize = 128 << 10;

/// Receives from one client.
pub(super) struct Inbox {
    link: Rc<Link>,
    pool: Rc<Pool>,
    /// Memory for pieces: those that no request uses any more are used again.
    pieces: Vec<Buffers>,
    /// The one that is being filled.
    current: usize,
    /// What has been received and not been taken: from here
    start: usize,
    /// to here in the current piece.
    end: usize,
}

impl Inbox {
    pub(super) fn new(link: Rc<Link>, pool: Rc<Pool>) -> Self {
        Self {
            link,
            pool,
            pieces: vec![Buffers::zeroed(PIECE_BYTES)],
            current: 0,
            start: PIECE_START,
            end: PIECE_START,
        }
    }

    /// What it receives from.
    pub(super) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// Receives from `link` from now on. Nothing is left of what came before.
    pub(super) fn change_link(&mut self, link: Rc<Link>) {
        self.link = link;
        self.start = self.end;
    }

    /// Whether there are `len` bytes that need no receiving.
    pub(super) fn has(&self, len: usize) -> bool {
        self.end - self.start >= len
    }

    /// The next bytes as a `T`.
    pub(super) async fn take<T: FromBytes + IntoBytes + FromZeros>(&mut self) -> Result<T, End> {
        self.fill(size_of::<T>()).await?;
        let mut value = T::new_zeroed();
        self.next(size_of::<T>()).copy_to(value.as_mut_bytes());
        Ok(value)
    }

    /// The next bytes, of which there are at most as many as fit a piece.
    pub(super) async fn take_bytes(&mut self, len: usize) -> Result<Vec<u8>, End> {
        self.fill(len).await?;
        Ok(self.next(len).to_vec())
    }

    /// The data of a request.
    pub(super) async fn take_data(&mut self, len: usize) -> Result<Buffers, End> {
        if len <= INLINE_MAX_BYTES {
            self.fill(len).await?;
            return Ok(self.next(len));
        }
        let data = self.pool.take(len);
        let mut done = (self.end - self.start).min(len);
        data.slice(0..done).copy_from(&self.next(done).to_vec());
        while done < len {
            done += self.receive(data.slice(done..len)).await?;
        }
        Ok(data)
    }

    /// Takes bytes that nobody wants.
    pub(super) async fn skip(&mut self, mut len: u64) -> Result<(), End> {
        while len > 0 {
            self.fill(1).await?;
            let there = self.end - self.start;
            let skipped = usize::try_from(len).map_or(there, |len| there.min(len));
            self.start += skipped;
            len -= skipped as u64;
        }
        Ok(())
    }

    fn piece(&self) -> &Buffers {
        &self.pieces[self.current]
    }

    /// Takes what is there.
    fn next(&mut self, len: usize) -> Buffers {
        self.start += len;
        self.piece().slice(self.start - len..self.start)
    }

    /// Receives until `len` bytes are there.
    async fn fill(&mut self, len: usize) -> Result<(), End> {
        if self.has(len) {
            return Ok(());
        }
        self.make_room(len);
        while !self.has(len) {
            let room = self.piece().slice(self.end..PIECE_BYTES);
            self.end += self.receive(room).await?;
        }
        Ok(())
    }

    /// Finds a place for `len` bytes and, if it can, for more.
    fn make_room(&mut self, len: usize) {
        let is_used = !self.piece().is_unique();
        if is_used && PIECE_BYTES - self.start >= len.max(ROOM_MIN) {
            return;
        }
        let rest = self.piece().slice(self.start..self.end).to_vec();
        if is_used {
            self.change_piece();
        }
        self.start = PIECE_START;
        self.end = self.start + rest.len();
        self.piece().slice(self.start..self.end).copy_from(&rest);
    }

    /// Leaves the current piece to the requests that use it.
    fn change_piece(&mut self) {
        if let Some(free) = self.pieces.iter().position(Buffers::is_unique) {
            self.current = free;
            return;
        }
        let piece = Buffers::zeroed(PIECE_BYTES);
        if self.pieces.len() < PIECES_MAX {
            self.current = self.pieces.len();
            self.pieces.push(piece);
        } else {
            self.pieces[self.current] = piece;
        }
    }

    async fn receive(&self, room: Buffers) -> Result<usize, End> {
        match self.link.receive(room).await? {
            0 => Err(End::Closed),
            count => Ok(count),
        }
    }
}
