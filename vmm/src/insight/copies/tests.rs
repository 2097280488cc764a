use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;

const ROOT: Root = Root {
    table: 0x1000,
    five_levels: false,
};
const BUFFER: u64 = 0x40_0000;
const SOURCE: FileId = FileId {
    device: 1,
    inode: 10,
};
const TARGET: FileId = FileId {
    device: 1,
    inode: 20,
};
const SOURCE_FD: i32 = 3;

/// A process with 16 pages of memory at [`BUFFER`], and its source, which has as many.
struct Rig {
    memory: GuestMemoryMmap,
    source: Vec<u8>,
    copies: Copies,
    /// Where the source's descriptor stands, and whether that is known.
    stands: u64,
    known: bool,
    /// Questions of its content so far.
    asked: usize,
}

impl Rig {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let tables = Memory(&memory);
        for (table, index, entry) in [
            (0x1000, 0, 0x2007),
            (0x2000, 0, 0x3007),
            (0x3000, 2, 0x4007),
        ] {
            tables.set_entry(table, index, entry).unwrap();
        }
        for page in 0..16 {
            let entry = (0x1_0000 + page * BLOCK) | 7;
            tables.set_entry(0x4000, page, entry).unwrap();
        }
        let source = (0..16 * BLOCK / 8).flat_map(|word| (word ^ 0x5a5a_5a5a).to_le_bytes());
        Self {
            memory,
            source: source.collect(),
            copies: Copies::default(),
            stands: 0,
            known: false,
            asked: 0,
        }
    }

    fn fill(&self, bytes: &[u8]) {
        let tables = Memory(&self.memory);
        assert!(tables.write_user(ROOT, BUFFER, bytes));
    }

    /// Reads `len` bytes from where the source stands, or at `at`, into the buffer.
    fn read(&mut self, len: u64, at: Option<u64>) {
        let data = UserData::One {
            address: BUFFER,
            len,
        };
        let memory = self.memory.clone();
        self.copies
            .reads(Memory(&memory), ROOT, (SOURCE_FD, SOURCE), data, at);
        let from = at.unwrap_or(self.stands);
        let range = usize::try_from(from).unwrap()..usize::try_from(from + len).unwrap();
        self.fill(&self.source[range]);
        if at.is_none() {
            self.stands += len;
            self.known = false;
        }
    }

    /// Writes what is in the buffer from `skip` on. Whether a copy was recognised by that, and whether
    /// the write is part of one.
    fn write(&mut self, skip: u64, len: u64) -> (bool, bool) {
        let data = UserData::One {
            address: BUFFER + skip,
            len,
        };
        let memory = self.memory.clone();
        let memory = Memory(&memory);
        let mut recognised = false;
        // As often as the observer considers a call at most.
        for _ in 0..16 {
            self.copies.look_away();
            self.copies.writes(memory, ROOT, TARGET, data);
            let stands = self.known.then_some(self.stands);
            match self
                .copies
                .question(|fd| (fd == SOURCE_FD).then_some(stands))
            {
                Some(Question::Offset { fd: SOURCE_FD }) => self.known = true,
                Some(Question::Content { fd, from, address }) => {
                    assert_eq!(fd, SOURCE_FD);
                    self.asked += 1;
                    let from = usize::try_from(from).unwrap();
                    let source = self.source.get(from..from + CONTENT_BYTES);
                    let written = sample(memory, ROOT, address);
                    recognised |= self.copies.compared(SOURCE, TARGET, source, &written);
                }
                Some(other) => panic!("{other:?}"),
                None => return (recognised, self.copies.wrote(TARGET)),
            }
        }
        panic!("there is no end of questions");
    }
}

#[test]
fn what_is_written_as_it_was_read_is_a_copy() {
    let mut rig = Rig::new();
    rig.read(8 * BLOCK, None);
    assert!(!rig.copies.has_source(SOURCE));
    assert_eq!(rig.write(0, 8 * BLOCK), (true, true));
    assert!(rig.copies.has_source(SOURCE) && !rig.copies.has_source(TARGET));
    assert_eq!(rig.asked, 4);
    rig.read(8 * BLOCK, None);
    // Nothing more is asked.
    assert_eq!((rig.write(0, 8 * BLOCK), rig.asked), ((false, true), 4));
}

#[test]
fn it_takes_four_blocks_in_however_many_writes() {
    let mut rig = Rig::new();
    for number in 0..5 {
        rig.read(BLOCK, None);
        let copies = number >= 3;
        assert_eq!(rig.write(0, BLOCK), (number == 3, copies), "{number}");
    }
}

#[test]
fn a_position_that_was_given_and_a_write_of_a_part_are_found() {
    let mut rig = Rig::new();
    rig.read(8 * BLOCK, Some(3 * BLOCK));
    assert_eq!(rig.write(2 * BLOCK, 5 * BLOCK), (true, true));
    // The rest of what was written in part.
    rig.read(4 * BLOCK, None);
    assert_eq!(rig.write(3 * BLOCK, BLOCK), (false, true));
}

#[test]
fn what_was_changed_in_its_place_is_no_copy_and_not_asked_for_ever() {
    let mut rig = Rig::new();
    for _ in 0..8 {
        rig.read(2 * BLOCK, None);
        rig.fill(&vec![0xee; 2 * 4096]);
        assert_eq!(rig.write(0, 2 * BLOCK), (false, false));
    }
    assert_eq!(rig.asked, 2);
    assert!(!rig.copies.has_source(SOURCE));
}

#[test]
fn one_block_that_differs_begins_the_count_anew() {
    let mut rig = Rig::new();
    rig.read(3 * BLOCK, None);
    assert_eq!(rig.write(0, 3 * BLOCK), (false, false));
    rig.read(BLOCK, None);
    rig.fill(&[0xee; 4096]);
    assert_eq!(rig.write(0, BLOCK), (false, false));
    rig.read(3 * BLOCK, None);
    assert_eq!(rig.write(0, 3 * BLOCK), (false, false));
    rig.read(BLOCK, None);
    assert_eq!(rig.write(0, BLOCK), (true, true));
}

#[test]
fn zeros_prove_nothing() {
    let mut rig = Rig::new();
    rig.source.fill(0);
    rig.read(8 * BLOCK, None);
    assert_eq!(rig.write(0, 8 * BLOCK), (false, false));
    assert!(!rig.copies.has_source(SOURCE));
}

#[test]
fn small_writes_other_memory_and_the_same_file_are_not_suspected() {
    let mut rig = Rig::new();
    rig.read(4 * BLOCK, None);
    assert_eq!(rig.write(0, BLOCK - 1), (false, false));
    assert_eq!(rig.write(4 * BLOCK, BLOCK), (false, false));
    let (memory, data) = (
        rig.memory.clone(),
        UserData::One {
            address: BUFFER,
            len: BLOCK,
        },
    );
    rig.copies.writes(Memory(&memory), ROOT, SOURCE, data);
    assert_eq!(rig.copies.question(|_| Some(Some(BLOCK))), None);
    assert_eq!(rig.asked, 0);
}

#[test]
fn a_copy_ends_with_writes_of_something_else_or_a_block_that_differs() {
    let copying = || {
        let mut rig = Rig::new();
        rig.read(4 * BLOCK, None);
        assert_eq!(rig.write(0, 4 * BLOCK), (true, true));
        rig
    };
    let mut rig = copying();
    for _ in 1..STRAYS_MAX {
        assert_eq!(rig.write(8 * BLOCK, BLOCK), (false, false));
    }
    assert!(rig.copies.has_source(SOURCE));
    rig.write(8 * BLOCK, BLOCK);
    assert!(!rig.copies.has_source(SOURCE));

    let mut rig = copying();
    rig.fill(&[0xee; 4096]);
    for _ in 1..TRUSTED_WRITES {
        assert_eq!(rig.write(0, BLOCK), (false, true));
    }
    rig.write(0, BLOCK);
    assert_eq!(rig.write(0, BLOCK), (false, false));
    assert!(!rig.copies.has_source(SOURCE));
}

#[test]
fn closing_either_file_ends_it() {
    for closed in [SOURCE, TARGET] {
        let mut rig = Rig::new();
        rig.read(4 * BLOCK, None);
        assert_eq!(rig.write(0, 4 * BLOCK), (true, true));
        rig.copies.forget(|file| file == closed);
        assert!(!rig.copies.has_source(SOURCE));
    }
    let mut rig = Rig::new();
    rig.read(4 * BLOCK, None);
    rig.copies.forget(|file| file == SOURCE);
    assert_eq!((rig.write(0, 4 * BLOCK), rig.asked), ((false, false), 0));
}

#[test]
fn what_the_kernel_copies_is_a_copy_at_once_through_a_pipe_too() {
    let mut copies = Copies::default();
    let pipe = |inode| (FileId { device: 9, inode }, false);
    let (source, target) = ((SOURCE, true), (TARGET, true));
    assert!(!copies.transfers(source, source));
    assert!(copies.transfers(source, target));
    assert!(!copies.transfers(source, target), "it is known");
    assert!(copies.has_source(SOURCE));
    let mut copies = Copies::default();
    assert!(!copies.transfers(pipe(1), target), "from somewhere");
    assert!(!copies.transfers(source, pipe(1)));
    assert!(!copies.transfers(pipe(2), target), "from another");
    assert!(!copies.has_source(SOURCE));
    assert!(copies.transfers(pipe(1), target));
    assert!(copies.has_source(SOURCE));
}

#[test]
fn memory_is_bounded_and_numbers_that_make_no_sense_are_borne() {
    let mut rig = Rig::new();
    let memory = rig.memory.clone();
    let memory = Memory(&memory);
    let file = |inode| FileId { device: 1, inode };
    for number in 0..100 {
        let data = UserData::One {
            address: number * BLOCK,
            len: u64::MAX,
        };
        let at = Some(u64::MAX);
        rig.copies
            .reads(memory, ROOT, (SOURCE_FD, file(number)), data, at);
        rig.copies.writes(memory, ROOT, file(1000 + number), data);
        rig.copies.question(|_| Some(None));
        rig.copies.wrote(file(1000 + number));
        rig.copies
            .transfers((file(number), true), (file(5000), true));
    }
    let vector = UserData::Vector {
        address: u64::MAX - 8,
        count: u64::MAX,
    };
    rig.copies.writes(memory, ROOT, TARGET, vector);
    assert!(rig.copies.reads.len() <= READS_MAX && rig.copies.pairs.len() <= PAIRS_MAX);
}
