//! Taking snapshots, deleting them, and going back to one.
//!
//! ```text
//!   copies of the table and the bitmap, counts, directory: to free places ── sync
//!   ── header: these are the image's ── sync ── what nobody has any more is given back
//! ```
//! All of that is about as large as the table. Data is neither read nor written.

use std::ops::Range;

use super::Flat;
use super::image::Image;
use crate::flat::bitmap::Bitmap;
use crate::flat::format::{
    ALIGNMENT, COUNT_BYTES, COUNTS_BYTES_MAX, Chunks, Header, SnapshotParts,
};
use crate::flat::places::{counts_least, places_of};
use crate::flat::snapshots::{
    Copies, Counts, NAME_BYTES_MAX, SNAPSHOTS_MAX, Snapshot, Snapshots, encode, entries_of,
    read_counts,
};
use crate::flat::table::Table;
use crate::format_error::FormatError;
use crate::mutant::mutant;
use crate::{Error, Storage};

/// What to call a new snapshot, and when it is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    /// What the user calls it: 1 to 255 bytes, and no other has that name.
    pub name: String,
    /// When it is taken, in seconds since 1970.
    pub date_seconds: u64,
    /// The nanoseconds of that.
    pub date_ns: u32,
}

/// What the image is to be, once it has another header.
struct Next {
    header: Header,
    table: Table,
    /// Absent if it stays as it is.
    bitmap: Option<Bitmap>,
    snapshots: Snapshots,
}

impl<S: Storage> Flat<S> {
    /// Takes a snapshot of the disk as it is now. The image must be compact.
    pub async fn create_snapshot(&self, new: NewSnapshot) -> Result<(), Error> {
        self.change(async move |image| {
            let next = image.with_snapshot(new).await;
            image.switch(next).await
        })
        .await
    }

    /// Makes the disk what it was at a snapshot, its size included.
    pub async fn apply_snapshot(&self, id_or_name: &str) -> Result<(), Error> {
        let name = id_or_name.to_owned();
        self.change(async move |image| {
            let next = image.as_at_snapshot(&name).await;
            image.switch(next).await
        })
        .await
    }

    /// Forgets a snapshot, and gives back what only that had. A name comes before a number, which are
    /// the other way round elsewhere.
    pub async fn delete_snapshot(&self, name_or_id: &str) -> Result<(), Error> {
        let name = name_or_id.to_owned();
        self.change(async move |image| {
            let next = image.without_snapshot(&name).await;
            image.switch(next).await
        })
        .await
    }
}

impl<S: Storage> Image<S> {
    /// Writes what a snapshot of the disk as it is takes.
    async fn with_snapshot(&self, new: NewSnapshot) -> Result<Next, Error> {
        let header = self.header.borrow().clone();
        let Some(chunks) = &header.chunks else {
            return Err(self.unsupported(
                "is not compact, so there are no snapshots in it; make a new image on top of it \
                 (microvm image create -b), or a compact copy (microvm image convert -o compact=on)",
            ));
        };
        let mut snapshots = Snapshots::read(&self.storage, &header).await?;
        let mut list = snapshots.list.to_vec();
        self.check_new(&list, &new.name)?;
        let mut counts = read_counts(&self.storage, &header).await?;
        for place in self.placed() {
            if !counts.add(place) {
                return Err(self.unsupported("has a place that more snapshots have than can be"));
            }
        }
        let (room, mut snapshot) = self.write_copies(&header, chunks).await?;
        snapshot.id = list.last().map_or(0, |last| last.id) + 1;
        (snapshot.name, snapshot.date_ns) = (new.name, new.date_ns);
        snapshot.date_seconds = new.date_seconds;
        list.push(snapshot);
        snapshots = Snapshots::new(list, &counts);
        self.next(header, snapshots, counts, room.end).await
    }

    /// Refuses a snapshot that cannot be.
    fn check_new(&self, list: &[Snapshot], name: &str) -> Result<(), Error> {
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
            return Err(self.unsupported("a snapshot's name has 1 to 255 bytes"));
        }
        if list.iter().any(|one| one.name == name) {
            return Err(self.unsupported(&format!("has a snapshot '{name}' already")));
        }
        let is_full =
            list.len() >= SNAPSHOTS_MAX || list.last().is_some_and(|one| one.id == u64::MAX);
        if is_full {
            return Err(self.unsupported("has 1024 snapshots, and cannot have more"));
        }
        Ok(())
    }

    /// The places that chunks have.
    fn placed(&self) -> Vec<u64> {
        let table = self.table.borrow();
        let entries = table.as_ref().map(Table::entries).unwrap_or_default();
        let places = entries.into_iter();
        places
            .filter_map(|entry| u64::from(entry).checked_sub(1))
            .collect()
    }

    /// Writes copies of the bitmap and the table. Returns the room that they have, and a snapshot that
    /// has them, but no name.
    async fn write_copies(
        &self,
        header: &Header,
        chunks: &Chunks,
    ) -> Result<(Range<u64>, Snapshot), Error> {
        let (bitmap, table) = self.metadata();
        let mut snapshot = Snapshot {
            id: 0,
            name: String::new(),
            date_seconds: 0,
            date_ns: 0,
            size_bytes: header.size_bytes,
            covered_bytes: header.covered_bytes,
            table_offset: 0,
            table_crc: crc32c::crc32c(&table),
            bitmap_offset: 0,
            bitmap_crc: crc32c::crc32c(&bitmap),
        };
        let aligned = |part: Range<u64>| (part.end - part.start).next_multiple_of(ALIGNMENT);
        let bitmap_bytes = aligned(snapshot.bitmap(header));
        let table_bytes = aligned(snapshot.table(chunks));
        let room = self.metadata_room(bitmap_bytes + table_bytes, 0).await?;
        snapshot.bitmap_offset = room.start;
        snapshot.table_offset = room.start + bitmap_bytes;
        let parts = [
            (room.start, bitmap, bitmap_bytes),
            (snapshot.table_offset, table, table_bytes),
        ];
        for (start, bytes, len) in parts {
            self.write_table(&(start..start + len), &bytes, 0, len)
                .await?;
        }
        Ok((room, snapshot))
    }

    /// Writes what the image has to say without a snapshot.
    async fn without_snapshot(&self, name_or_id: &str) -> Result<Next, Error> {
        let header = self.header.borrow().clone();
        let snapshots = Snapshots::read(&self.storage, &header).await?;
        let index = snapshots.find_to_delete(&self.storage, name_or_id)?;
        let mut counts = read_counts(&self.storage, &header).await?;
        let copies = self.copies(&header, &snapshots.list[index]).await?;
        let mut places: Vec<u64> = copies.places().collect();
        places.sort_unstable();
        let is_twice = places.windows(2).any(|pair| pair[0] == pair[1]);
        if is_twice || !places.into_iter().all(|place| counts.remove(place)) {
            return Err(self.miscounted(&header));
        }
        let mut list = snapshots.list.to_vec();
        list.remove(index);
        let snapshots = Snapshots::new(list, &counts);
        self.next(header, snapshots, counts, 0).await
    }

    /// What a snapshot of a compact image has copies of.
    async fn copies(&self, header: &Header, snapshot: &Snapshot) -> Result<Copies, Error> {
        match &header.chunks {
            Some(chunks) => Copies::read(&self.storage, header, chunks, snapshot).await,
            None => Err(self.unsupported("is not compact, and has no snapshots")),
        }
    }

    fn miscounted(&self, header: &Header) -> Error {
        let start = header
            .snapshots
            .as_ref()
            .map_or(0, |parts| parts.counts.start);
        let problem = "the places of a snapshot are not counted as they should be; check and repair \
                       the image first";
        FormatError::at(self.storage.path())(FormatError::damaged(start, problem))
    }

    /// Writes a directory and counts behind a part of the file.
    async fn next(
        &self,
        mut header: Header,
        snapshots: Snapshots,
        mut counts: Counts,
        behind: u64,
    ) -> Result<Next, Error> {
        header.snapshots = None;
        let Some(chunks) = header.chunks.clone() else {
            return Err(self.unsupported("is not compact, and has no snapshots"));
        };
        let end = self.placed().into_iter().max().map_or(0, |last| last + 1);
        let least = counts_least(&header, &chunks, &snapshots, end);
        let is_cut = mutant("a chunk is where there may be no place");
        counts.trim(if is_cut { 0 } else { least });
        if counts.len() * COUNT_BYTES > COUNTS_BYTES_MAX {
            return Err(self.unsupported("has more places than can be counted"));
        }
        header.snapshots = self.write_parts(&snapshots.list, &counts, behind).await?;
        let snapshots = Snapshots::new(snapshots.list.to_vec(), &counts);
        let entries = self.table.borrow().as_ref().map(Table::entries);
        let entries = entries.unwrap_or_default();
        let table = Table::sound(entries, &self.storage, (&header, &chunks), &snapshots)?;
        Ok(Next {
            header,
            table,
            bitmap: None,
            snapshots,
        })
    }

    /// Writes a directory and counts, if there need to be any.
    async fn write_parts(
        &self,
        list: &[Snapshot],
        counts: &Counts,
        behind: u64,
    ) -> Result<Option<SnapshotParts>, Error> {
        let Some((bytes, parts)) = encode(list, counts) else {
            return Ok(None);
        };
        let room_bytes = (bytes.len() as u64).next_multiple_of(ALIGNMENT);
        let start = match self.room_beside(room_bytes) {
            Some(start) => start,
            None => self.metadata_room(room_bytes, behind).await?.start,
        };
        let room = start..start + room_bytes;
        self.write_table(&room, &bytes, 0, room_bytes).await?;
        Ok(Some(parts.at(start)))
    }

    /// Where there is so much room in the places that the present directory and counts take, beside
    /// those: one snapshot of several can be deleted where nothing else is free.
    fn room_beside(&self, bytes: u64) -> Option<u64> {
        let header = self.header.borrow();
        let (parts, chunks) = (header.snapshots.as_ref()?, header.chunks.as_ref()?);
        let start = parts.directory.start.min(parts.counts.start);
        let end = parts.directory.end.max(parts.counts.end);
        let places = places_of(&(start..end), &header, chunks);
        let place = |number: u64| header.data_offset + (number << chunks.bits);
        let snapshots = self.snapshots.borrow();
        let mut others = vec![start..end, header.bitmap.clone(), chunks.table.clone()];
        for one in snapshots.iter() {
            others.extend([one.table(chunks), one.bitmap(&header)]);
        }
        let is_free = |start: &u64| {
            let room = *start..*start + bytes;
            let mut others = others.iter();
            room.start >= header.data_offset
                && room.end <= place(places.end)
                && others.all(|other| room.end <= other.start || other.end <= room.start)
        };
        let behind = end.next_multiple_of(ALIGNMENT);
        [place(places.start), behind].into_iter().find(is_free)
    }

    /// Writes a table and a bitmap for the disk as it was at a snapshot.
    async fn as_at_snapshot(&self, id_or_name: &str) -> Result<Next, Error> {
        let header = self.header.borrow().clone();
        let snapshots = Snapshots::read(&self.storage, &header).await?;
        let snapshot = &snapshots.list[snapshots.find(&self.storage, id_or_name)?];
        let copies = self.copies(&header, snapshot).await?;
        if copies.places().any(|place| !snapshots.frozen.has(place)) {
            return Err(self.miscounted(&header));
        }
        let header = Header {
            size_bytes: snapshot.size_bytes,
            covered_bytes: snapshot.covered_bytes,
            ..header
        };
        let (header, chunks) = self.write_live(header, &copies).await?;
        let entries = entries_of(&copies.table).collect();
        let table = Table::sound(entries, &self.storage, (&header, &chunks), &snapshots)?;
        Ok(Next {
            bitmap: Some(Bitmap::of(&copies.bitmap, &header)),
            header,
            table,
            snapshots,
        })
    }

    /// Writes a bitmap and a table for the disk, with no less room than those have that it has now.
    /// Returns a header that says so.
    async fn write_live(
        &self,
        mut header: Header,
        copies: &Copies,
    ) -> Result<(Header, Chunks), Error> {
        let Some(mut chunks) = header.chunks.take() else {
            return Err(self.unsupported("is not compact, and has no snapshots"));
        };
        let room_for = |part: &Range<u64>, bytes: &[u8]| {
            let needed = (bytes.len() as u64).next_multiple_of(ALIGNMENT);
            needed.max(part.end - part.start)
        };
        let bitmap_bytes = room_for(&header.bitmap, &copies.bitmap);
        let table_bytes = room_for(&chunks.table, &copies.table);
        let room = self.metadata_room(bitmap_bytes + table_bytes, 0).await?;
        header.bitmap = room.start..room.start + bitmap_bytes;
        chunks.table = header.bitmap.end..header.bitmap.end + table_bytes;
        self.write_table(&header.bitmap, &copies.bitmap, 0, bitmap_bytes)
            .await?;
        self.write_table(&chunks.table, &copies.table, 0, table_bytes)
            .await?;
        header.chunks = Some(chunks.clone());
        Ok((header, chunks))
    }

    /// Makes the image what was written for it, durably, and gives back what nobody has any more. If
    /// it could not be written, a file is as long as it was.
    async fn switch(&self, next: Result<Next, Error>) -> Result<(), Error> {
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                self.cut_off().await;
                return Err(error);
            }
        };
        self.change_header(|header| *header = next.header).await?;
        self.snapshots.replace(next.snapshots.list);
        if let Some(bitmap) = next.bitmap {
            self.bitmap.replace(bitmap);
        }
        let old = self.table.replace(Some(next.table));
        let gone = {
            let table = self.table.borrow();
            let both = old.as_ref().zip(table.as_ref());
            both.map_or_else(Vec::new, |(old, new)| {
                let gone = old.places.without(&new.places).into_iter();
                gone.map(|places| new.range_of(&places)).collect()
            })
        };
        self.give_back_places(&gone).await;
        self.cut_off().await;
        Ok(())
    }
}
