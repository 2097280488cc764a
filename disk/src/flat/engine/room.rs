//! Room for the metadata of a compact image: of a disk that gets another size, and of snapshots.

use std::ops::Range;

use super::image::Image;
use super::place::Place;
use crate::flat::format::{ALIGNMENT, BITMAP_BYTES_MAX, ENTRY_BYTES, Header, TABLE_BYTES_MAX};
use crate::flat::table::{Table, no_place};
use crate::mutant::mutant;
use crate::request::SECTOR_BYTES;
use crate::{Buffers, Error, Storage};

/// A bitmap and a table that move get room for so many times what the disk needs, so that not each
/// change moves them.
const ROOM_FACTOR: u64 = 2;

impl<S: Storage> Image<S> {
    /// Makes zeros of what a larger disk finds behind the end of the present one: in its last block,
    /// in the bitmap and in the table. Where these have no room for it, they move to places of the
    /// file, which the new header says.
    pub(super) async fn make_room(&self, new: &mut Header) -> Result<(), Error> {
        self.zero_rest_of_block().await?;
        let Some(chunks) = &mut new.chunks.clone() else {
            return Ok(());
        };
        let bitmap_bytes = new.bitmap_blocks().div_ceil(8).next_multiple_of(ALIGNMENT);
        let table_bytes = new.size_bytes.div_ceil(chunks.bytes()) * ENTRY_BYTES;
        let table_bytes = table_bytes.next_multiple_of(ALIGNMENT);
        let fits = |room: &Range<u64>, bytes| bytes <= room.end - room.start;
        let (bitmap, table) = self.metadata();
        if fits(&new.bitmap, bitmap_bytes) && fits(&chunks.table, table_bytes) {
            let first = |bytes: &[u8]| bytes.len() as u64 / SECTOR_BYTES * SECTOR_BYTES;
            self.write_table(&new.bitmap, &bitmap, first(&bitmap), bitmap_bytes)
                .await?;
            return self
                .write_table(&chunks.table, &table, first(&table), table_bytes)
                .await;
        }
        let rooms = (
            (bitmap_bytes * ROOM_FACTOR).min(BITMAP_BYTES_MAX),
            (table_bytes * ROOM_FACTOR).min(TABLE_BYTES_MAX),
        );
        if bitmap_bytes > rooms.0 || table_bytes > rooms.1 {
            return Err(self.unsupported("so large a disk has no room in a compact image"));
        }
        let start = self.metadata_room(rooms.0 + rooms.1, 0).await?.start;
        new.bitmap = start..start + rooms.0;
        chunks.table = new.bitmap.end..new.bitmap.end + rooms.1;
        self.write_table(&new.bitmap, &bitmap, 0, rooms.0).await?;
        self.write_table(&chunks.table, &table, 0, rooms.1).await?;
        new.chunks = Some(chunks.clone());
        Ok(())
    }

    /// The bitmap and the table as they are in the file: nothing waits for a commit.
    pub(super) fn metadata(&self) -> (Vec<u8>, Vec<u8>) {
        let table = self.table.borrow();
        let table = table.as_ref().map(Table::to_bytes);
        (self.bitmap.borrow().to_bytes(), table.unwrap_or_default())
    }

    /// What the disk's last block has behind its end must not be what a larger disk has there.
    async fn zero_rest_of_block(&self) -> Result<(), Error> {
        let (size_bytes, block_bytes) = (self.size_bytes(), self.block_bytes());
        let rest = size_bytes.next_multiple_of(block_bytes) - size_bytes;
        if rest == 0 || mutant("a compact disk grows over old data") {
            return Ok(());
        }
        let last = size_bytes - 1..size_bytes;
        if matches!(self.part(&last), (Place::Frozen(_), _)) {
            self.leave_frozen_end().await?;
        }
        let Some(host) = self.in_own_place(&last) else {
            return Ok(());
        };
        self.make_zeros(host + 1, rest, true).await
    }

    /// Gives the last chunk a place of its own. Nobody uses the image; all of it is home again then.
    async fn leave_frozen_end(&self) -> Result<(), Error> {
        let end = self.size_bytes();
        let block = end - 1 - (end - 1) % self.block_bytes()..end;
        let len = usize::try_from(end - block.start).expect("within a block");
        let content = Buffers::zeroed(len);
        self.read_held(block.start, &content).await?;
        self.fill_place(&block, content).await?;
        self.make_local(&block);
        self.settle().await
    }

    /// Finds places for so much metadata, where nobody else has any, behind a part of the file. They
    /// are a part of the file from then on.
    pub(super) async fn metadata_room(&self, bytes: u64, behind: u64) -> Result<Range<u64>, Error> {
        let file_bytes = self.storage.size_bytes();
        let room = {
            let table = self.table.borrow();
            let table = table.as_ref();
            table.and_then(|table| table.room(&self.storage, bytes, behind))
        };
        let Some(room) = room else {
            return Err(no_place(&self.storage));
        };
        if file_bytes < room.end {
            let grown = self.storage.set_len(room.end).await;
            self.flusher.changed();
            grown?;
        }
        Ok(room)
    }

    /// Writes what a table has from byte `from` on; behind that it is zeros, up to `len` bytes.
    pub(super) async fn write_table(
        &self,
        room: &Range<u64>,
        bytes: &[u8],
        from: u64,
        len: u64,
    ) -> Result<(), Error> {
        let index = usize::try_from(from).expect("within a table");
        let mut rest = bytes[index..].to_vec();
        let sector = usize::try_from(SECTOR_BYTES).expect("small");
        rest.resize(rest.len().next_multiple_of(sector), 0);
        let zeros = room.start + from + rest.len() as u64..room.start + len;
        if !rest.is_empty() {
            let written = self
                .storage
                .write_at(room.start + from, Buffers::from_vec(rest));
            let written = written.await;
            self.flusher.changed();
            written?;
        }
        if zeros.is_empty() || mutant("a compact disk grows over old entries") {
            return Ok(());
        }
        self.make_zeros(zeros.start, zeros.end - zeros.start, true)
            .await
    }

    /// Where in the file the chunks are that lie behind the end of a disk of `size_bytes`, but for what
    /// snapshots have.
    pub(super) fn places_behind(&self, size_bytes: u64) -> Vec<Range<u64>> {
        let end_bytes = self.size_bytes();
        let table = self.table.borrow();
        let Some(table) = &*table else {
            return Vec::new();
        };
        let first = size_bytes.div_ceil(table.chunk_bytes());
        let chunks = first..end_bytes.div_ceil(table.chunk_bytes());
        let is_free = |place: &u64| {
            !table.places.is_frozen(*place) || mutant("a smaller disk gives back frozen places")
        };
        let places = chunks.filter_map(|chunk| table.place(chunk).filter(is_free));
        places
            .map(|place| table.range_of(&(place..place + 1)))
            .collect()
    }

    /// Gives the host back the space of places that have become nobody's, durably.
    pub(super) async fn give_back_places(&self, places: &[Range<u64>]) {
        for range in places {
            let given = self.storage.discard(range.start, range.end - range.start);
            if let Err(error) = given.await {
                tracing::debug!(%error, "the host keeps what is free");
            }
            self.flusher.changed();
        }
    }

    /// Takes its place from the last chunk, if nothing of what the disk had there is left.
    pub(super) fn free_unused_end(&self) {
        let size_bytes = self.size_bytes();
        let table = self.table.borrow();
        let Some(table) = &*table else {
            return;
        };
        let chunk = table.chunk(size_bytes - 1);
        let bitmap = self.bitmap.borrow();
        let blocks = bitmap.blocks(&(chunk * table.chunk_bytes()..size_bytes));
        if bitmap.run_of_bits(&blocks) == (false, blocks.end) {
            table.free(chunk);
        }
    }

    /// Takes all chunks their places; the next commit says so.
    pub(super) fn free_all(&self) {
        let table = self.table.borrow();
        if let Some(table) = &*table {
            let chunks = 0..self.size_bytes().div_ceil(table.chunk_bytes());
            for chunk in chunks {
                table.free(chunk);
            }
        }
    }
}
