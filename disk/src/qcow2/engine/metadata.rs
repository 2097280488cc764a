//! The cache of all metadata, in small pages of the file.
//!
//! Memory is the truth: a change is made here, noted in the pending [`Transaction`], and written
//! by a commit. A page that waits for one stays; of the others, the least used go when there are
//! too many.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::transaction::{Freed, SECTOR_BYTES, Sealed, Stage, Transaction};
use crate::mutant::mutant;
use crate::qcow2::file;
use crate::wait_queue::WaitQueue;
use crate::{Error, Storage};

/// Tables are read in pieces of this size, or of a cluster if that is less.
const PAGE_BYTES_MAX: u64 = 4096;
/// Fewer pages than this make no sense.
const PAGES_MIN: usize = 16;
/// A transaction may have so many sectors and freed ranges, however small the cache is.
const TRANSACTION_MIN: usize = 1024;

/// The metadata that is in memory.
pub(super) struct Metadata {
    page_bytes: u64,
    pages_max: usize,
    slots: RefCell<HashMap<u64, Slot, RandomState>>,
    /// All pages, in the order in which the hand of the clock meets them.
    clock: RefCell<VecDeque<u64>>,
    pending: RefCell<Transaction>,
    /// Pages that wait for a commit.
    dirty: Cell<usize>,
}

enum Slot {
    /// Being read; those who wait are woken when it is there, or not.
    Loading(Rc<WaitQueue>),
    Ready(Rc<Page>),
}

/// A page of a table.
pub(super) struct Page {
    offset: u64,
    bytes: RefCell<Vec<u8>>,
    /// Whether it was used since the clock's hand passed.
    used: Cell<bool>,
    /// Whether it has changes in the pending transaction.
    pending: Cell<bool>,
    /// How many transactions, which were sealed, have changes of it that are not in the file yet.
    unwritten: Cell<u32>,
}

impl Page {
    fn at(&self, offset: u64) -> usize {
        usize::try_from(offset - self.offset).expect("within the page")
    }

    /// The big-endian word at `offset` in the file.
    pub(super) fn word(&self, offset: u64) -> u64 {
        let at = self.at(offset);
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes.borrow()[at..at + 8]);
        u64::from_be_bytes(word)
    }

    /// Where in the file it ends.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.borrow().len() as u64
    }

    /// Where in the file it starts.
    pub(super) fn start(&self) -> u64 {
        self.offset
    }

    /// Looks at its bytes.
    pub(super) fn with<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.bytes.borrow())
    }

    fn is_dirty(&self) -> bool {
        self.pending.get() || self.unwritten.get() > 0
    }
}

/// Gives a page up that could not be read, or whose reader went away.
struct Loading<'a> {
    metadata: &'a Metadata,
    number: u64,
    waiting: Rc<WaitQueue>,
}

impl Loading<'_> {
    /// Whether the page's slot is still ours to fill.
    fn is_wanted(&self) -> bool {
        match self.metadata.slots.borrow().get(&self.number) {
            Some(Slot::Loading(waiting)) => Rc::ptr_eq(waiting, &self.waiting),
            Some(Slot::Ready(_)) | None => false,
        }
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        if self.is_wanted() {
            self.metadata.slots.borrow_mut().remove(&self.number);
        }
        self.waiting.wake_all();
    }
}

impl Metadata {
    /// Keeps at most `cache_bytes` of pages that do not wait for a commit.
    pub(super) fn new(cluster_bytes: u64, cache_bytes: u64) -> Self {
        let page_bytes = cluster_bytes.min(PAGE_BYTES_MAX);
        let pages_max = usize::try_from(cache_bytes / page_bytes).unwrap_or(usize::MAX);
        Self {
            page_bytes,
            pages_max: pages_max.max(PAGES_MIN),
            slots: RefCell::default(),
            clock: RefCell::default(),
            pending: RefCell::default(),
            dirty: Cell::default(),
        }
    }

    /// The page with the byte at `offset`, read if it is not here. Those who want it meanwhile
    /// wait for the same read; others are not held up.
    pub(super) async fn page(
        &self,
        storage: &impl Storage,
        offset: u64,
    ) -> Result<Rc<Page>, Error> {
        let number = offset / self.page_bytes;
        loop {
            let waiting = match self.slots.borrow().get(&number) {
                Some(Slot::Ready(page)) => {
                    page.used.set(true);
                    return Ok(Rc::clone(page));
                }
                Some(Slot::Loading(waiting)) => Some(Rc::clone(waiting)),
                None => None,
            };
            match waiting {
                Some(waiting) => waiting.wait().await,
                None => self.load(storage, number).await?,
            }
        }
    }

    /// The page with the byte at `offset`, if it is here.
    pub(super) fn cached(&self, offset: u64) -> Option<Rc<Page>> {
        match self.slots.borrow().get(&(offset / self.page_bytes)) {
            Some(Slot::Ready(page)) => {
                page.used.set(true);
                Some(Rc::clone(page))
            }
            Some(Slot::Loading(_)) | None => None,
        }
    }

    async fn load(&self, storage: &impl Storage, number: u64) -> Result<(), Error> {
        let waiting = Rc::new(WaitQueue::default());
        let slot = Slot::Loading(Rc::clone(&waiting));
        self.slots.borrow_mut().insert(number, slot);
        let loading = Loading {
            metadata: self,
            number,
            waiting,
        };
        let len = usize::try_from(self.page_bytes).expect("small");
        let bytes = file::read(storage, number * self.page_bytes, len).await?;
        // Its cluster may have become another table meanwhile.
        if loading.is_wanted() {
            self.insert(number, bytes);
        }
        Ok(())
    }

    fn insert(&self, number: u64, bytes: Vec<u8>) -> Rc<Page> {
        let page = Rc::new(Page {
            offset: number * self.page_bytes,
            bytes: RefCell::new(bytes),
            used: Cell::new(true),
            pending: Cell::default(),
            unwritten: Cell::default(),
        });
        let slot = Slot::Ready(Rc::clone(&page));
        if let Some(Slot::Ready(old)) = self.slots.borrow_mut().insert(number, slot) {
            self.dirty
                .set(self.dirty.get() - usize::from(old.is_dirty()));
        } else {
            self.clock.borrow_mut().push_back(number);
        }
        self.evict();
        page
    }

    /// Lets go of pages that were not used for a while, until there are few enough.
    fn evict(&self) {
        let (mut slots, mut clock) = (self.slots.borrow_mut(), self.clock.borrow_mut());
        // Twice round: the first time the hand may only take marks away.
        for _ in 0..clock.len() * 2 {
            if clock.len().saturating_sub(self.dirty.get()) <= self.pages_max {
                break;
            }
            let Some(number) = clock.pop_front() else {
                break;
            };
            match slots.get(&number) {
                Some(Slot::Ready(page)) => {
                    let in_use = page.used.replace(false) || Rc::strong_count(page) > 1;
                    let stays = page.is_dirty() && !mutant("a page with changes is evicted");
                    if in_use || stays {
                        clock.push_back(number);
                    } else {
                        slots.remove(&number);
                    }
                }
                // Forgotten; if it is being read again, it gets another place.
                Some(Slot::Loading(_)) | None => {}
            }
        }
    }

    /// Makes a table of `bytes` in a cluster that nothing points to yet. If `host_is_zero`, zeros
    /// need not be written.
    pub(super) fn fresh(&self, offset: u64, bytes: &[u8], host_is_zero: bool) {
        let page_bytes = usize::try_from(self.page_bytes).expect("small");
        for (n, content) in bytes.chunks(page_bytes).enumerate() {
            let number = offset / self.page_bytes + n as u64;
            let page = self.insert(number, content.to_vec());
            let sector_bytes = usize::try_from(SECTOR_BYTES).expect("small");
            for (n, sector) in content.chunks(sector_bytes).enumerate() {
                if !host_is_zero || sector.iter().any(|byte| *byte != 0) {
                    let at = page.offset + n as u64 * SECTOR_BYTES;
                    self.note(Stage::Fresh, &page, at, SECTOR_BYTES);
                }
            }
        }
    }

    /// Changes the word at `offset`.
    pub(super) fn set_word(&self, stage: Stage, page: &Page, offset: u64, word: u64) {
        let at = page.at(offset);
        page.bytes.borrow_mut()[at..at + 8].copy_from_slice(&word.to_be_bytes());
        self.note(stage, page, offset, 8);
    }

    /// Changes some of the `len` bytes at `offset`.
    pub(super) fn change(
        &self,
        stage: Stage,
        page: &Page,
        offset: u64,
        len: u64,
        change: impl FnOnce(&mut [u8]),
    ) {
        change(&mut page.bytes.borrow_mut());
        self.note(stage, page, offset, len);
    }

    fn note(&self, stage: Stage, page: &Page, offset: u64, len: u64) {
        debug_assert!(offset >= page.offset && offset + len <= page.end());
        if !page.is_dirty() {
            self.dirty.set(self.dirty.get() + 1);
        }
        page.pending.set(true);
        self.pending.borrow_mut().note(stage, offset, len);
    }

    /// Notes that a reference to host clusters is dropped.
    pub(super) fn free(&self, freed: Freed) {
        self.pending.borrow_mut().free(freed);
    }

    /// Looks at the changes since the last commit.
    pub(super) fn pending<T>(&self, look: impl FnOnce(&Transaction) -> T) -> T {
        look(&self.pending.borrow())
    }

    /// Whether so much waits for a commit that one should come.
    pub(super) fn wants_commit(&self) -> bool {
        self.dirty.get() > self.pages_max / 2
            || self.pending.borrow().len() > self.pages_max.max(TRANSACTION_MIN)
    }

    /// A sector of a page that waits for a commit.
    fn sector(&self, offset: u64) -> Vec<u8> {
        let slots = self.slots.borrow();
        let Some(Slot::Ready(page)) = slots.get(&(offset / self.page_bytes)) else {
            unreachable!("a page with changes stays in memory");
        };
        let at = page.at(offset);
        let len = usize::try_from(SECTOR_BYTES).expect("small");
        page.bytes.borrow()[at..at + len].to_vec()
    }

    /// Takes the pending transaction out, to be committed, with the pages that it changes; nobody
    /// else commits meanwhile.
    pub(super) fn seal(&self) -> (Sealed, Vec<Rc<Page>>) {
        let transaction = std::mem::take(&mut *self.pending.borrow_mut());
        let sealed = transaction.seal(|offset| self.sector(offset));
        let numbers = sealed.sectors().map(|offset| offset / self.page_bytes);
        let numbers: BTreeSet<u64> = numbers.collect();
        let slots = self.slots.borrow();
        let mut pages = Vec::new();
        for number in numbers {
            if let Some(Slot::Ready(page)) = slots.get(&number) {
                page.pending.set(false);
                page.unwritten.set(page.unwritten.get() + 1);
                pages.push(Rc::clone(page));
            }
        }
        (sealed, pages)
    }

    /// What a transaction has changed of these pages is in the file: they need not stay.
    pub(super) fn written(&self, pages: Vec<Rc<Page>>) {
        for page in pages {
            page.unwritten.set(page.unwritten.get() - 1);
            // One that was replaced meanwhile does not count any more.
            if !page.is_dirty() && self.holds(&page) {
                self.dirty.set(self.dirty.get() - 1);
            }
        }
        self.evict();
    }

    fn holds(&self, page: &Rc<Page>) -> bool {
        match self.slots.borrow().get(&(page.offset / self.page_bytes)) {
            Some(Slot::Ready(held)) => Rc::ptr_eq(held, page),
            Some(Slot::Loading(_)) | None => false,
        }
    }

    /// Changes whole words of the header, which is not in this cache.
    pub(super) fn set_header(&self, offset: u64, words: Vec<u8>) {
        self.pending.borrow_mut().set_header(offset, words);
    }

    /// Forgets all pages. Nothing waits for a commit.
    pub(super) fn clear(&self) {
        debug_assert!(self.pending.borrow().is_empty());
        debug_assert_eq!(self.dirty.get(), 0);
        self.slots.borrow_mut().clear();
        self.clock.borrow_mut().clear();
        self.dirty.set(0);
    }
}
