//! Who sees all that is done to a disk, and looks at all that is read from it.

use std::cell::{Cell, Ref, RefCell};
use std::ops::Range;

use super::content::{SECTOR_BYTES, Stamp, bytes_of, stamp_of};
use super::history::{Event, History};
use crate::{Buffers, DedupHint, Disk, Error, Request};

/// What happens to a disk. Sectors are numbered from 0 within what a program uses of it.
pub(crate) struct Witness<'a> {
    /// Where on the disk the sectors are.
    sectors: Vec<u64>,
    history: RefCell<History>,
    /// What happened, and at which of the steps that `clock` counts.
    log: RefCell<Vec<(usize, Event)>>,
    clock: Box<dyn Fn() -> usize + 'a>,
    next: Cell<u64>,
    /// Whether requests may fail.
    tolerant: Cell<bool>,
}

impl<'a> Witness<'a> {
    /// Of a disk of `size_sectors`, of which a program uses `sectors`, that have these stamps.
    pub(crate) fn new(
        sectors: Vec<u64>,
        stamps: &[Stamp],
        size_sectors: u64,
        clock: impl Fn() -> usize + 'a,
    ) -> Self {
        Self {
            sectors,
            history: RefCell::new(History::new(stamps, size_sectors)),
            log: RefCell::default(),
            clock: Box::new(clock),
            next: Cell::new(1),
            tolerant: Cell::new(false),
        }
    }

    /// From now on, requests may fail or may not.
    pub(crate) fn tolerate_errors(&self, tolerant: bool) {
        self.tolerant.set(tolerant);
    }

    pub(crate) fn is_tolerant(&self) -> bool {
        self.tolerant.get()
    }

    pub(crate) fn history(&self) -> Ref<'_, History> {
        self.history.borrow()
    }

    pub(crate) fn into_history(self) -> History {
        self.history.into_inner()
    }

    /// Everything that happened, with the number of steps there had been.
    pub(crate) fn into_log(self) -> Vec<(usize, Event)> {
        self.log.into_inner()
    }

    /// Where on the disk the sectors are.
    pub(crate) fn sectors(&self) -> &[u64] {
        &self.sectors
    }

    /// Where a sector is, in bytes.
    pub(crate) fn offset(&self, sector: usize) -> u64 {
        self.sectors[sector] * 512
    }

    /// A number that was not given before.
    pub(crate) fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    pub(crate) fn note(&self, event: Event) {
        self.history.borrow_mut().apply(&event);
        self.log.borrow_mut().push(((self.clock)(), event));
    }

    /// Stamps that were never used, and what to write.
    pub(crate) fn fresh(&self, range: &Range<usize>) -> (Vec<Stamp>, Buffers) {
        let stamps: Vec<_> = range.clone().map(|_| self.number()).collect();
        let bytes = Buffers::from_vec(bytes_of(&stamps));
        (stamps, bytes)
    }

    /// The stamps of other sectors, so many from `from` on, as they are just now or are about to be.
    pub(crate) fn again(&self, from: usize, count: usize) -> (Vec<Stamp>, Buffers) {
        let history = self.history.borrow();
        let stamps: Vec<_> = (from..from + count).map(|n| history.newest(n)).collect();
        let bytes = Buffers::from_vec(bytes_of(&stamps));
        (stamps, bytes)
    }

    /// Sees sectors changed; whether that worked.
    pub(crate) async fn change(
        &self,
        first: usize,
        stamps: Vec<Stamp>,
        sure: bool,
        request: impl Future<Output = Result<(), Error>>,
    ) -> bool {
        let result = self.attempt(first, stamps, sure, request).await;
        self.succeeded(result)
    }

    pub(crate) async fn attempt(
        &self,
        first: usize,
        stamps: Vec<Stamp>,
        sure: bool,
        request: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        let change = self.number();
        self.note(Event::Begin {
            change,
            first,
            stamps,
            sure,
        });
        let result = request.await;
        self.note(if result.is_ok() {
            Event::End { change }
        } else {
            Event::Fail { change }
        });
        result
    }

    /// Sees what makes everything durable that is done; whether that worked.
    pub(crate) async fn durably(&self, request: impl Future<Output = Result<(), Error>>) -> bool {
        let flush = self.number();
        self.note(Event::FlushBegin { flush });
        let result = request.await;
        if result.is_ok() {
            self.note(Event::FlushEnd { flush });
        }
        self.succeeded(result)
    }

    pub(crate) fn succeeded<T>(&self, result: Result<T, Error>) -> bool {
        match result {
            Ok(_) => true,
            Err(_) if self.tolerant.get() => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads sectors, which must have what they can have.
    pub(crate) async fn read(&self, disk: &dyn Disk, range: Range<usize>) {
        self.read_hinted(disk, range, DedupHint::None).await;
    }

    /// The same, with a hint.
    pub(crate) async fn read_hinted(&self, disk: &dyn Disk, range: Range<usize>, hint: DedupHint) {
        let before = self.history.borrow().before(range.start, range.len());
        let buffers = Buffers::zeroed(range.len() * SECTOR_BYTES);
        let request = Request::read(self.offset(range.start), buffers.clone());
        let request = request.with_dedup_hint(hint);
        if !self.succeeded(disk.submit(request).await) {
            return;
        }
        let bytes = buffers.to_vec();
        for ((sector, before), content) in range.zip(before).zip(bytes.chunks(SECTOR_BYTES)) {
            let at = self.sectors[sector];
            let stamp = match stamp_of(content) {
                Ok(stamp) => stamp,
                // Some of it was read before a write, and the rest after it.
                Err(_) if !self.history.borrow().is_settled(sector, before) => continue,
                Err(byte) => panic!("sector {at} is torn at byte {byte}"),
            };
            let checked = self.history.borrow().check_read(sector, before, stamp);
            match checked {
                Ok(true) => self.note(Event::Found { sector, stamp }),
                Ok(false) => {}
                Err(allowed) => panic!("sector {at} reads as {stamp:#x}, not one of {allowed:x?}"),
            }
        }
    }

    /// Reads all of the disk that the program uses.
    pub(crate) async fn read_all(&self, disk: &dyn Disk) {
        let size = disk.properties().size_bytes / 512;
        let mut start = 0;
        for end in 1..=self.sectors.len() {
            let ends = end == self.sectors.len() || self.sectors[end] != self.sectors[end - 1] + 1;
            if ends {
                let on_disk = self.sectors[start..end]
                    .iter()
                    .filter(|sector| **sector < size)
                    .count();
                if on_disk > 0 {
                    self.read(disk, start..start + on_disk).await;
                }
                start = end;
            }
        }
    }
}
