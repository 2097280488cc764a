//! What the blocks of a disk are: metadata as the disk itself tells, and files by what processes
//! wrote.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use disk::graybox::GrayBox;
use disk::{Buffers, CLASS_BLOCK_BYTES, Class, Classifier, DedupHint};

use super::Insight;
use super::labels::{Label, Labels, blocks};
use super::located::WaitedFor;
use super::partial_blocks::{BLOCK_BYTES, Block};

/// The way from a machine's hooks to one of its disks, on another thread.
pub(crate) struct DiskInsight {
    insight: Arc<Insight>,
    number: usize,
}

impl DiskInsight {
    /// To disk number `number`.
    pub(crate) fn new(insight: Arc<Insight>, number: usize) -> Self {
        Self { insight, number }
    }

    /// What tells the blocks of a disk of `size_bytes`, on the thread that uses it.
    pub(crate) fn classifier(self, size_bytes: u64) -> Rc<dyn Classifier> {
        Rc::new(FileClassifier {
            waited_for: self.insight.waited_for(),
            looked_at: Cell::default(),
            insight: self.insight,
            number: self.number,
            metadata: GrayBox::new(size_bytes),
            labels: RefCell::default(),
        })
    }
}

struct FileClassifier {
    insight: Arc<Insight>,
    number: usize,
    /// Whether there is something of `insight` to be taken.
    waited_for: Arc<WaitedFor>,
    /// How much was looked at of what may be on any disk.
    looked_at: Cell<u64>,
    /// It is asked first: what looks like a file's content there is a file that is none.
    metadata: GrayBox,
    labels: RefCell<Labels>,
}

impl FileClassifier {
    /// Labels the files that processes are about to read.
    fn label_located(&self) {
        let mut looked_at = self.looked_at.get();
        if !self.waited_for.has(self.number, looked_at) {
            return;
        }
        let waiting = self.insight.take_located(self.number, &mut looked_at);
        self.looked_at.set(looked_at);
        let mut labels = self.labels.borrow_mut();
        for (name, located) in waiting {
            let label = Label {
                class: located.class,
                dedup: located.dedup,
            };
            for place in self.metadata.places(name, &located.range) {
                labels.set(blocks(place.start, place.end - place.start), label);
            }
        }
    }

    /// What `of` says of the block at `offset`, and how many of the `len` bytes there have blocks of
    /// which it says the same.
    fn run<T: PartialEq>(&self, offset: u64, len: u64, of: impl Fn(Label) -> T) -> (T, u64) {
        let (class, len) = self.metadata.class_of(offset, len);
        if class == Class::Metadata {
            let metadata = Label {
                class,
                dedup: DedupHint::None,
            };
            return (of(metadata), len);
        }
        self.label_located();
        self.labels.borrow().run(offset, len, of)
    }

    /// What the kernel copies by itself is met nowhere but here: what comes from a file that is being
    /// copied goes to another of its class.
    fn expect_copies(&self, offset: u64, content: &Buffers) {
        let labels = self.labels.borrow();
        let copied = |blocks| {
            let mut labels = labels.of(blocks).flatten();
            labels.find(|label| label.dedup == DedupHint::Prefetch)
        };
        if copied(blocks(offset, content.len() as u64)).is_some() {
            self.insight
                .expect(offset, content, |at| Some(copied(blocks(at, 1))?.class));
        }
    }
}

impl Classifier for FileClassifier {
    fn class_of(&self, offset: u64, len: u64) -> (Class, u64) {
        self.run(offset, len, |label| label.class)
    }

    fn dedup_hint(&self, offset: u64, len: u64) -> (DedupHint, u64) {
        self.run(offset, len, |label| label.dedup)
    }

    fn written(&self, offset: u64, content: &Buffers) {
        self.metadata.written(offset, content);
        let marks = self.insight.find(offset, content);
        let mut labels = self.labels.borrow_mut();
        labels.forget_hints(blocks(offset, content.len() as u64));
        for (at, mark) in marks {
            let label = Label {
                class: mark.class,
                dedup: mark.dedup,
            };
            // Two, where blocks are smaller than pages.
            labels.set(blocks(at, CLASS_BLOCK_BYTES), label);
        }
    }

    fn read(&self, offset: u64, content: &Buffers) {
        self.metadata.read(offset, content);
        self.expect_copies(offset, content);
    }

    fn discarded(&self, range: Range<u64>) {
        self.metadata.discarded(range.clone());
        let blocks = range.start.div_ceil(CLASS_BLOCK_BYTES)..range.end / CLASS_BLOCK_BYTES;
        if !blocks.is_empty() {
            self.labels.borrow_mut().forget(&blocks);
        }
    }
}

/// The pages of `content`, which is at `offset` of its disk, with where they are there. A file's page
/// begins where a request does, also on a file system with smaller blocks.
pub(super) fn pages(offset: u64, content: &Buffers, mut each: impl FnMut(u64, &Block)) {
    let mut page = [0; BLOCK_BYTES];
    content.for_each_piece(&mut page, |start, page| {
        if let Ok(page) = page.try_into() {
            each(offset + start as u64, page);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_count() {
        let content = (0..3 * 4096_u32).map(|n| (n / 512).to_le_bytes()[0]);
        let content = Buffers::from_vec(content.collect::<Vec<_>>());
        let mut seen = Vec::new();
        pages(512, &content.slice(0..12_287), |at, page| {
            seen.push((at, page[0]));
        });
        assert_eq!(seen, [(512, 0), (4608, 8)]);
    }
}
