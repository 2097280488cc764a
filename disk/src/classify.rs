//! A disk that is told what the blocks of its requests are.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use futures_util::stream::{FuturesUnordered, StreamExt as _};

use crate::{
    BoxFuture, Buffers, Class, ClassStatistics, DedupHint, Disk, Error, Extent, Op, Properties,
    Request, Statistics,
};

/// Tells what the blocks of a disk are, as they pass by. All offsets and lengths are bytes from the
/// disk's start, and multiples of 512.
///
/// What it says is a guess that may be wrong at any time: it may cost speed, never content.
pub trait Classifier {
    /// What the bytes from `offset` on are, and how many of the `len` bytes there (at least 512) are
    /// the same: at least 1 and at most `len`.
    fn class_of(&self, offset: u64, len: u64) -> (Class, u64);

    /// Whether data like that from `offset` on is elsewhere, and how many of the `len` bytes there are
    /// alike in that: as [`Classifier::class_of`] says it.
    fn dedup_hint(&self, offset: u64, len: u64) -> (DedupHint, u64) {
        let _ = offset;
        (DedupHint::None, len)
    }

    /// Learns from what is about to be written, before it is asked for its class. The memory may be
    /// the guest's, so what matters is copied out of it once.
    fn written(&self, offset: u64, content: &Buffers);

    /// Learns from what came from the disk.
    fn read(&self, offset: u64, content: &Buffers);

    /// The guest needs this no more: it is discarded, or becomes zeros.
    fn discarded(&self, range: Range<u64>);
}

/// What is said of some blocks.
type Label = (Class, DedupHint);

/// Passes everything on to a disk, and says of each request what its blocks are. One with blocks of
/// several classes becomes one for each run of a class, all of them at once.
pub struct Classified {
    disk: Rc<dyn Disk>,
    classifier: Rc<dyn Classifier>,
    counts: Cell<ClassStatistics>,
}

impl Classified {
    /// What `classifier` says of the blocks of `disk`.
    pub fn new(disk: Rc<dyn Disk>, classifier: Rc<dyn Classifier>) -> Self {
        Self {
            disk,
            classifier,
            counts: Cell::default(),
        }
    }

    /// What is at `at`, and where its run within `range` ends.
    fn run(&self, at: u64, range: &Range<u64>) -> (Label, u64) {
        let (class, len) = self.classifier.class_of(at, range.end - at);
        let (dedup, alike) = self.classifier.dedup_hint(at, range.end - at);
        // Requests are cut between sectors only, and each step goes on.
        let end = (at + len.min(alike).max(1)).next_multiple_of(512);
        ((class, dedup), end.min(range.end))
    }

    async fn perform(&self, request: Request) -> Result<(), Error> {
        let Some(end) = request.offset.checked_add(request.len) else {
            return self.disk.submit(request).await;
        };
        let range = request.offset..end;
        if request.problem(self.disk.properties().size_bytes).is_some() || range.is_empty() {
            return self.disk.submit(request).await;
        }
        let mut read = None;
        match &request.op {
            Op::Read(content) => read = Some(content.clone()),
            Op::Write(content) => self.classifier.written(range.start, content),
            // Whoever submits the next request may already rely on it.
            Op::Discard | Op::WriteZeroes { .. } => self.classifier.discarded(range.clone()),
            Op::Flush => {}
        }
        let outcome = match self.whole_label(&request.op, &range) {
            Some((class, dedup)) => {
                self.count(&request.op, class, request.len);
                let labelled = request.of_class(class).with_dedup_hint(dedup);
                self.disk.submit(labelled).await
            }
            None => self.perform_in_parts(&request, &range).await,
        };
        if let Some(content) = read.filter(|_| outcome.is_ok()) {
            self.classifier.read(range.start, &content);
        }
        outcome
    }

    /// What all blocks are, if they are alike. What has no memory needs none: it may be as large as
    /// the disk, and is to be forgotten.
    fn whole_label(&self, op: &Op, range: &Range<u64>) -> Option<Label> {
        match op {
            Op::Read(_) | Op::Write(_) => {
                let (label, end) = self.run(range.start, range);
                (end == range.end).then_some(label)
            }
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => Some(Label::default()),
        }
    }

    /// Does what has blocks of several classes. The first error is returned when all have ended.
    async fn perform_in_parts(&self, request: &Request, range: &Range<u64>) -> Result<(), Error> {
        let parts = FuturesUnordered::new();
        let mut at = range.start;
        while at < range.end {
            let ((class, dedup), end) = self.run(at, range);
            let part = part(request, at..end)
                .of_class(class)
                .with_dedup_hint(dedup);
            self.count(&part.op, class, part.len);
            parts.push(self.disk.submit(part));
            at = end;
        }
        parts
            .fold(Ok(()), async |all: Result<(), Error>, one| all.and(one))
            .await
    }

    fn count(&self, op: &Op, class: Class, len: u64) {
        let mut all = self.counts.get();
        let counts = &mut all[class];
        let (count, bytes) = match op {
            Op::Read(_) => (&mut counts.reads, &mut counts.read_bytes),
            Op::Write(_) => (&mut counts.writes, &mut counts.written_bytes),
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => return,
        };
        *count += 1;
        *bytes += len;
        self.counts.set(all);
    }
}

/// What `request` does to `range`, which is a part of its own.
fn part(request: &Request, range: Range<u64>) -> Request {
    let len = range.end - range.start;
    let memory = |buffers: &Buffers| {
        let skipped = usize::try_from(range.start - request.offset).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let start = skipped.min(buffers.len());
        buffers.slice(start..skipped.saturating_add(len).min(buffers.len()))
    };
    let op = match &request.op {
        Op::Read(buffers) => Op::Read(memory(buffers)),
        Op::Write(buffers) => Op::Write(memory(buffers)),
        other => other.clone(),
    };
    Request {
        op,
        offset: range.start,
        len,
        ..*request
    }
}

impl Disk for Classified {
    fn properties(&self) -> Properties {
        self.disk.properties()
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.perform(request))
    }

    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        self.disk.extent(offset, len)
    }

    fn give_up(&self) {
        self.disk.give_up();
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.disk.close()
    }

    /// Those of the disk below, which counts a request once for each class that it has.
    fn statistics(&self) -> Statistics {
        let mut statistics = self.disk.statistics();
        statistics.classes += self.counts.get();
        statistics
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::{Backend, Executor, Fault, FaultyOperation, Raw, SimulatedStorage};

    /// Every block with an odd number is metadata; what it was told is noted.
    #[derive(Default)]
    struct Odd(RefCell<Vec<(&'static str, u64, u64)>>);

    const BLOCK: u64 = 4096;

    impl Classifier for Odd {
        fn class_of(&self, offset: u64, len: u64) -> (Class, u64) {
            let class = if offset / BLOCK % 2 == 1 {
                Class::Metadata
            } else {
                Class::Other
            };
            (class, (BLOCK - offset % BLOCK).min(len))
        }

        fn written(&self, offset: u64, content: &Buffers) {
            self.0
                .borrow_mut()
                .push(("written", offset, content.len() as u64));
        }

        fn read(&self, offset: u64, content: &Buffers) {
            assert!(!content.is_zero(), "it is told before it is read");
            self.0
                .borrow_mut()
                .push(("read", offset, content.len() as u64));
        }

        fn discarded(&self, range: Range<u64>) {
            self.0
                .borrow_mut()
                .push(("discarded", range.start, range.end - range.start));
        }
    }

    /// Notes the requests that reach it.
    struct Noted {
        disk: Raw<SimulatedStorage>,
        seen: RefCell<Vec<(&'static str, u64, u64, Class)>>,
    }

    impl Disk for Noted {
        fn properties(&self) -> Properties {
            self.disk.properties()
        }

        fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>> {
            let noted = (
                request.op.name(),
                request.offset,
                request.len,
                request.class,
            );
            self.seen.borrow_mut().push(noted);
            self.disk.submit(request)
        }

        fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
            self.disk.extent(offset, len)
        }

        fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
            self.disk.close()
        }

        fn statistics(&self) -> Statistics {
            self.disk.statistics()
        }
    }

    fn with_disk(test: impl AsyncFnOnce(&Classified, &Noted, &Odd, SimulatedStorage)) {
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
        executor.run(async {
            let storage = SimulatedStorage::new(1 << 20, 1);
            let noted = Rc::new(Noted {
                disk: Raw::new(storage.clone()).unwrap(),
                seen: RefCell::default(),
            });
            let odd = Rc::new(Odd::default());
            let below = Rc::clone(&noted) as Rc<dyn Disk>;
            let classified = Classified::new(below, Rc::clone(&odd) as Rc<dyn Classifier>);
            test(&classified, &noted, &odd, storage).await;
        });
    }

    #[test]
    fn a_request_is_cut_where_the_class_changes() {
        with_disk(async |disk, noted, odd, _| {
            let bytes: Vec<u8> = (1..=24).flat_map(|sector| [sector; 512]).collect();
            let data = Buffers::from_vec(&bytes);
            disk.submit(Request::write(BLOCK - 512, data))
                .await
                .unwrap();
            let cut = [
                ("write", BLOCK - 512, 512, Class::Other),
                ("write", BLOCK, BLOCK, Class::Metadata),
                ("write", 2 * BLOCK, BLOCK, Class::Other),
                ("write", 3 * BLOCK, BLOCK - 512, Class::Metadata),
            ];
            assert_eq!(noted.seen.take(), cut);
            let read = Buffers::zeroed(bytes.len());
            let request = Request::read(BLOCK - 512, read.clone());
            disk.submit(request).await.unwrap();
            assert_eq!(read.to_vec(), bytes);
            assert_eq!(noted.seen.take().len(), 4);
            let told = [
                ("written", BLOCK - 512, 3 * BLOCK),
                ("read", BLOCK - 512, 3 * BLOCK),
            ];
            assert_eq!(odd.0.take(), told);
            let counts = disk.statistics().classes[Class::Metadata];
            assert_eq!((counts.reads, counts.writes), (2, 2));
            assert_eq!(counts.written_bytes, 2 * BLOCK - 512);
        });
    }

    #[test]
    fn a_request_of_one_class_stays_whole() {
        with_disk(async |disk, noted, odd, _| {
            let data = Buffers::from_vec([7; 1024]);
            disk.submit(Request::write(BLOCK + 512, data))
                .await
                .unwrap();
            disk.submit(Request::flush()).await.unwrap();
            disk.submit(Request::discard(0, 4 * BLOCK)).await.unwrap();
            disk.submit(Request::write_zeroes(BLOCK, 2 * BLOCK, true))
                .await
                .unwrap();
            let all = [
                ("write", BLOCK + 512, 1024, Class::Metadata),
                ("flush", 0, 0, Class::Other),
                ("discard", 0, 4 * BLOCK, Class::Other),
                ("write zeros", BLOCK, 2 * BLOCK, Class::Other),
            ];
            assert_eq!(noted.seen.take(), all);
            let told = [
                ("written", BLOCK + 512, 1024),
                ("discarded", 0, 4 * BLOCK),
                ("discarded", BLOCK, 2 * BLOCK),
            ];
            assert_eq!(odd.0.take(), told);
        });
    }

    #[test]
    fn one_part_that_fails_fails_the_whole() {
        with_disk(async |disk, noted, odd, storage| {
            storage.inject(Fault::new(FaultyOperation::Read, libc::EIO));
            let read = Request::read(0, Buffers::zeroed(3 * 4096));
            assert!(disk.submit(read).await.is_err());
            assert_eq!(noted.seen.take().len(), 3);
            assert_eq!(odd.0.take(), []);
            // What no disk of this size can do, nobody learns from.
            let past = Request::write(1 << 20, Buffers::zeroed(512));
            assert!(disk.submit(past).await.is_err());
            assert_eq!(odd.0.take(), []);
        });
    }
}
