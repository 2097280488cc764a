//! Records: putting one together, and taking one apart.

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::format::{
    BLOCK_BYTES, ITEM_ALIGNMENT, Identity, ItemHead, RECORD_CRC_AT, RECORD_MAGIC, RecordHead,
    crc_without, kind, parts,
};
use crate::mutant::mutant;

/// A run of zeros that is at least so long is not written out.
const ZEROS_MIN: usize = 2 * size_of::<ItemHead>();
const WORD_BYTES: usize = 8;

/// A record that is being put together.
pub(crate) struct RecordBuilder {
    bytes: Vec<u8>,
    items: u32,
    /// The kind of the last item, and where its head is.
    last: Option<(u32, usize)>,
    file_end: u64,
}

/// Something that a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Write {
        offset: u64,
        bytes: &'a [u8],
    },
    Zero {
        offset: u64,
        len: u64,
    },
    Free {
        offset: u64,
        len: u64,
    },
    Check {
        offset: u64,
        len: u64,
        crcs: &'a [U32],
    },
}

impl RecordBuilder {
    /// One that may point to anything before `file_end`.
    pub(crate) fn new(file_end: u64) -> Self {
        Self {
            file_end,
            bytes: vec![0; size_of::<RecordHead>()],
            items: 0,
            last: None,
        }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// `bytes`, whole words, belong at `offset`, which is that of a word.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        debug_assert!(offset.is_multiple_of(8) && bytes.len().is_multiple_of(WORD_BYTES));
        let mut at = 0;
        while at < bytes.len() {
            let zeros = zeros_at(&bytes[at..]);
            if zeros >= ZEROS_MIN {
                self.range(kind::ZERO, offset + at as u64, zeros as u64);
                at += zeros;
                continue;
            }
            let end = at + data_at(&bytes[at..]);
            self.data(offset + at as u64, &bytes[at..end]);
            at = end;
        }
    }

    /// What was said of a range up to here does not count any more.
    pub(crate) fn free(&mut self, offset: u64, len: u64) {
        self.range(kind::FREE, offset, len);
    }

    /// The parts of a range, each of which ends with a block of the file, have these checksums.
    pub(crate) fn check(&mut self, offset: u64, len: u64, crcs: &[u32]) {
        debug_assert_eq!(parts(offset, len), crcs.len() as u64);
        self.head(kind::CHECK, offset, len);
        for crc in crcs {
            self.bytes.extend_from_slice(&crc.to_le_bytes());
        }
        self.pad();
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) {
        match self.joinable(kind::WRITE, offset, bytes.len() as u64) {
            Some(len) => self.set_last_len(len),
            None => self.head(kind::WRITE, offset, bytes.len() as u64),
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn range(&mut self, kind: u32, mut offset: u64, mut len: u64) {
        if let Some(joined) = self.joinable(kind, offset, len) {
            return self.set_last_len(joined);
        }
        while len > 0 {
            let piece = len.min(1 << 30);
            self.head(kind, offset, piece);
            offset += piece;
            len -= piece;
        }
    }

    /// The length that the last item has with `len` bytes at `offset` in it, if they go on where it
    /// ends.
    fn joinable(&self, kind: u32, offset: u64, len: u64) -> Option<u32> {
        let (_, at) = self.last.filter(|(last, _)| *last == kind)?;
        let (head, _) = ItemHead::read_from_prefix(&self.bytes[at..]).ok()?;
        let (start, before) = (head.offset.get(), u64::from(head.len.get()));
        let joins = start + before == offset;
        u32::try_from(before + len).ok().filter(|_| joins)
    }

    fn set_last_len(&mut self, len: u32) {
        let (_, at) = self.last.expect("there is one to be joined");
        let (head, _) = ItemHead::mut_from_prefix(&mut self.bytes[at..]).expect("it was written");
        head.len = len.into();
    }

    fn head(&mut self, kind: u32, offset: u64, len: u64) {
        self.last = Some((kind, self.bytes.len()));
        self.items += 1;
        let head = ItemHead {
            offset: offset.into(),
            len: u32::try_from(len).expect("no item is so long").into(),
            kind: kind.into(),
        };
        self.bytes.extend_from_slice(head.as_bytes());
    }

    fn pad(&mut self) {
        let len = self.bytes.len().next_multiple_of(ITEM_ALIGNMENT);
        self.bytes.resize(len, 0);
    }

    /// The record, padded to whole blocks.
    pub(super) fn finish(&self, identity: Identity, sequence: u64, tail: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let head = RecordHead {
            magic: RECORD_MAGIC,
            crc: 0.into(),
            identity,
            sequence: sequence.into(),
            tail: tail.into(),
            file_end: self.file_end.into(),
            bytes: u32::try_from(bytes.len())
                .expect("less than a region")
                .into(),
            items: self.items.into(),
        };
        bytes[..size_of::<RecordHead>()].copy_from_slice(head.as_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes[RECORD_CRC_AT..RECORD_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        let block = usize::try_from(BLOCK_BYTES).expect("small");
        bytes.resize(bytes.len().next_multiple_of(block), 0);
        bytes
    }
}

/// How many bytes of whole words of zeros `bytes` begins with.
fn zeros_at(bytes: &[u8]) -> usize {
    let words = bytes.chunks_exact(WORD_BYTES);
    let zeros = words.take_while(|word| word.iter().all(|byte| *byte == 0));
    zeros.count() * WORD_BYTES
}

/// How many bytes there are before zeros that are worth an item of their own.
fn data_at(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        let zeros = zeros_at(&bytes[at..]);
        if zeros >= ZEROS_MIN {
            break;
        }
        at += zeros.max(WORD_BYTES);
    }
    at.min(bytes.len())
}

/// A record as it was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) sequence: u64,
    pub(super) tail: u64,
    pub(super) file_end: u64,
    items: u32,
    body: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record that `bytes` begin with, if it is whole and this journal's.
    pub(super) fn parse(bytes: &'a [u8], identity: &Identity) -> Option<Self> {
        let (head, _) = RecordHead::read_from_prefix(bytes).ok()?;
        let len = head.bytes.get() as usize;
        if head.magic != RECORD_MAGIC || head.identity != *identity || head.sequence.get() == 0 {
            return None;
        }
        let whole = bytes
            .get(..len)
            .filter(|_| len >= size_of::<RecordHead>())?;
        let crc = crc_without(whole, RECORD_CRC_AT);
        if crc != head.crc.get() && !mutant("a torn record is taken for a whole one") {
            return None;
        }
        Some(Self {
            sequence: head.sequence.get(),
            tail: head.tail.get(),
            file_end: head.file_end.get(),
            items: head.items.get(),
            body: &whole[size_of::<RecordHead>()..],
        })
    }

    /// What it says, or nothing where it cannot be understood, though its checksum is right.
    pub(super) fn items(&self) -> impl Iterator<Item = Option<Item<'a>>> {
        let (mut rest, mut left) = (self.body, self.items);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let Some((item, behind)) = take_item(rest) else {
                left = 0;
                return Some(None);
            };
            rest = behind;
            Some(Some(item))
        })
    }
}

fn take_item(bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let (head, body) = ItemHead::ref_from_prefix(bytes).ok()?;
    let (offset, len) = (head.offset.get(), u64::from(head.len.get()));
    // No file reaches further.
    i64::try_from(offset.checked_add(len)?).ok()?;
    let (item, used) = match head.kind.get() {
        kind::WRITE | kind::ZERO if !(offset | len).is_multiple_of(WORD_BYTES as u64) => {
            return None;
        }
        kind::WRITE => {
            let used = usize::try_from(len).ok()?;
            let bytes = body.get(..used)?;
            (Item::Write { offset, bytes }, used)
        }
        kind::ZERO => (Item::Zero { offset, len }, 0),
        kind::FREE => (Item::Free { offset, len }, 0),
        kind::CHECK => {
            let used = usize::try_from(parts(offset, len) * 4).ok()?;
            let crcs = <[U32]>::ref_from_bytes(body.get(..used)?).ok()?;
            (Item::Check { offset, len, crcs }, used)
        }
        _ => return None,
    };
    let rest = body.get(used.next_multiple_of(ITEM_ALIGNMENT)..)?;
    Some((item, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = [7; 16];

    fn built() -> RecordBuilder {
        let mut builder = RecordBuilder::new(0);
        builder.write(4096, &[1; 16]);
        builder.write(4112, &[2; 8]);
        let mut sparse = [0; 512];
        sparse[256] = 3;
        builder.write(8192, &sparse);
        builder.free(1 << 40, 65536);
        builder.check(4096 * 7 + 512, 8192, &[10, 11, 12]);
        builder
    }

    fn items(bytes: &[u8]) -> Vec<Item<'_>> {
        let record = Record::parse(bytes, &IDENTITY).unwrap();
        record.items().map(Option::unwrap).collect()
    }

    #[test]
    fn what_is_put_in_comes_out() {
        let bytes = built().finish(IDENTITY, 5, 3);
        assert_eq!(bytes.len(), 4096);
        let record = Record::parse(&bytes, &IDENTITY).unwrap();
        assert_eq!((record.sequence, record.tail), (5, 3));
        let crcs = [10, 11, 12].map(U32::from);
        let joined = [[1; 16].as_slice(), &[2; 8]].concat();
        assert_eq!(
            items(&bytes),
            [
                Item::Write {
                    offset: 4096,
                    bytes: &joined
                },
                Item::Zero {
                    offset: 8192,
                    len: 256
                },
                Item::Write {
                    offset: 8448,
                    bytes: &[3, 0, 0, 0, 0, 0, 0, 0]
                },
                Item::Zero {
                    offset: 8456,
                    len: 248
                },
                Item::Free {
                    offset: 1 << 40,
                    len: 65536
                },
                Item::Check {
                    offset: 4096 * 7 + 512,
                    len: 8192,
                    crcs: &crcs
                },
            ]
        );
    }

    #[test]
    fn any_flipped_bit_and_any_other_journal_is_refused() {
        let bytes = built().finish(IDENTITY, 5, 3);
        assert!(Record::parse(&bytes, &[8; 16]).is_none());
        let used = built().len();
        for bit in 0..used * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::parse(&bytes, &IDENTITY).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn items_that_reach_out_end_the_list() {
        let mut builder = RecordBuilder::new(0);
        builder.write(0, &[1; 8]);
        builder
            .bytes
            .truncate(size_of::<RecordHead>() + size_of::<ItemHead>() + 4);
        let bytes = builder.finish(IDENTITY, 1, 1);
        let record = Record::parse(&bytes, &IDENTITY).unwrap();
        assert_eq!(record.items().collect::<Vec<_>>(), [None]);
    }
}
