//! What the blocks of a disk are: metadata as the disk itself tells, and files by what processes
//! wrote.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use disk::graybox::GrayBox;
use disk::{Buffers, CLASS_BLOCK_BYTES, Class, Classifier};

use super::Insight;
use super::labels::Labels;
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
            insight: self.insight,
            number: self.number,
            metadata: GrayBox::new(size_bytes),
            labels: RefCell::default(),
            size_bytes,
        })
    }
}

struct FileClassifier {
    insight: Arc<Insight>,
    number: usize,
    /// It is asked first: what looks like a file's content there is a file that is none.
    metadata: GrayBox,
    labels: RefCell<Labels>,
    size_bytes: u64,
}

impl FileClassifier {
    /// Labels the files that processes are about to read.
    fn label_located(&self) {
        for (partition, located) in self.insight.take_located(self.number) {
            let Some(start) = self.metadata.volume_start(partition) else {
                continue;
            };
            let from = start.saturating_add(located.range.start) / CLASS_BLOCK_BYTES;
            let to = start
                .saturating_add(located.range.end)
                .min(self.size_bytes)
                .div_ceil(CLASS_BLOCK_BYTES);
            let mut labels = self.labels.borrow_mut();
            for block in from..to {
                labels.set(block, Some(located.class));
            }
        }
    }
}

impl Classifier for FileClassifier {
    fn class_of(&self, offset: u64, len: u64) -> (Class, u64) {
        let (class, len) = self.metadata.class_of(offset, len);
        if class == Class::Metadata {
            return (class, len);
        }
        self.label_located();
        let labels = self.labels.borrow();
        let label = |at: u64| labels.get(at / CLASS_BLOCK_BYTES).unwrap_or_default();
        let class = label(offset);
        let mut end = offset;
        while end < offset + len && label(end) == class {
            end = (end / CLASS_BLOCK_BYTES + 1) * CLASS_BLOCK_BYTES;
        }
        (class, (end - offset).min(len))
    }

    fn written(&self, offset: u64, content: &Buffers) {
        self.metadata.written(offset, content);
        let marks = self.insight.find(offset, content);
        let mut labels = self.labels.borrow_mut();
        for (at, class) in marks {
            // Two, where blocks are smaller than pages.
            for block in
                at / CLASS_BLOCK_BYTES..(at + CLASS_BLOCK_BYTES).div_ceil(CLASS_BLOCK_BYTES)
            {
                labels.set(block, Some(class));
            }
        }
    }

    fn read(&self, offset: u64, content: &Buffers) {
        self.metadata.read(offset, content);
    }

    fn discarded(&self, range: Range<u64>) {
        self.metadata.discarded(range.clone());
        let blocks = range.start.div_ceil(CLASS_BLOCK_BYTES)..range.end / CLASS_BLOCK_BYTES;
        if !blocks.is_empty() {
            self.labels.borrow_mut().forget(blocks);
        }
    }
}

/// The pages of `content`, which is at `offset` of its disk, with where they are there. A file's page
/// begins where a request does, also on a file system with smaller blocks.
pub(super) fn pages(offset: u64, content: &Buffers, mut each: impl FnMut(u64, &Block)) {
    let mut page = [0; BLOCK_BYTES];
    let mut start = 0;
    while start + page.len() <= content.len() {
        content.slice(start..start + page.len()).copy_to(&mut page);
        each(offset + start as u64, &page);
        start += page.len();
    }
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
