//! A process and a kernel that answers what it is asked.

mod quiet;

use std::cell::RefCell;
use std::collections::HashMap;

use ::tests::records::Numbers;
use disk::Class;
use disk::graybox::VolumeName;
use libc::c_long;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::fingerprints::Mark;
use super::super::located::Located;
use super::super::partial_blocks::BLOCK_BYTES;
use super::super::window::{Note, Quiet};
use super::*;

const ROOT: Root = Root {
    table: 0x1000,
    five_levels: false,
};
/// The process has a large page.
const MEMORY: u64 = 0x20_0000;
const BUFFER: u64 = MEMORY;
const PATH: u64 = MEMORY + 0x10_0000;
const STACK: u64 = MEMORY + 0x1f_0000;
const CHUNK_BYTES: usize = 64 << 10;
/// The first disk of virtio-blk.
const DEVICE: u64 = 254 << 8;
/// The number that a btrfs has, and what it says of itself.
const BTRFS: u64 = 35;
const BTRFS_ID: [u32; 2] = [7, 8];
const BTRFS_MAGIC: u64 = 0x9123_683e;
const ERROR: u64 = u64::MAX - 1;
/// EBADF.
const NO_DESCRIPTOR: u64 = u64::MAX - 8;

struct File {
    path: &'static str,
    content: Vec<u8>,
    offset: usize,
}

struct Guest {
    memory: GuestMemoryMmap,
    window: Window,
    observer: Observer,
    fingerprinter: Fingerprinter,
    executable: &'static str,
    pid: u64,
    files: HashMap<i32, File>,
    /// The inode of all files; without, each descriptor has its own.
    inode: Option<u64>,
    stack: u64,
    /// Whether the kernel brings memory in that was not used yet.
    has_room: bool,
    /// The numbers of all calls that were asked for.
    asked: RefCell<Vec<c_long>>,
    /// How much was taken of what may be on any disk.
    looked_at: u64,
}

/// The device that a file is on, and what its file system says of itself.
fn file_system(path: &str) -> (u64, Option<[u64; 2]>) {
    let word = |[low, high]: [u32; 2]| u64::from(low) | u64::from(high) << 32;
    match path {
        _ if path.starts_with("/btrfs/") => (BTRFS, Some([BTRFS_MAGIC, word(BTRFS_ID)])),
        _ if path.starts_with("/tmp/") => (BTRFS + 1, Some([0x0102_1994, word(BTRFS_ID)])),
        _ if path.starts_with("/silent/") => (BTRFS + 2, None),
        _ => (DEVICE, None),
    }
}

/// So many random bytes, always the same.
fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let words = std::iter::repeat_with(|| numbers.draw().to_le_bytes());
    words.flatten().take(len).collect()
}

impl Guest {
    fn new(options: &str, executable: &'static str) -> Self {
        Self::with(options, executable, true)
    }

    fn with(options: &str, executable: &'static str, looks_for_alike: bool) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
        for (table, index, entry) in [
            (ROOT.table, 0, 0x2007),
            (0x2000, 0, 0x3007),
            (0x3000, 1, 0x40_0000 | 0x87),
        ] {
            Memory(&memory).set_entry(table, index, entry).unwrap();
        }
        let fingerprinter = Fingerprinter::new(1);
        let options: Options = options.parse().unwrap();
        let mut observer = Observer::new(
            &options,
            None,
            looks_for_alike,
            0x7777,
            fingerprinter.clone(),
        );
        let window = Window::detached(1);
        observer.set(&window, true);
        Self {
            memory,
            window,
            observer,
            fingerprinter,
            executable,
            pid: 10,
            files: HashMap::new(),
            inode: None,
            stack: STACK,
            has_room: true,
            asked: RefCell::default(),
            looked_at: 0,
        }
    }

    fn open(&mut self, fd: i32, path: &'static str, content: Vec<u8>) {
        let offset = 0;
        let file = File {
            path,
            content,
            offset,
        };
        self.files.insert(fd, file);
    }

    /// Makes a call, and answers what is asked meanwhile. How often that is.
    fn call(&mut self, number: c_long, [rdi, rsi, rdx, r10, r8, r9]: [u64; 6]) -> u32 {
        let mut regs = kvm_regs {
            rax: number.cast_unsigned(),
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            rsp: self.stack,
            rcx: 0x1002,
            ..Default::default()
        };
        let call = regs;
        for asked in 0..100 {
            let scene = Scene {
                memory: Memory(&self.memory),
                window: &self.window,
                root: ROOT,
                fs_base: &|| Some(1),
                now_ms: 0,
            };
            if !self.observer.call(&scene, &mut regs) || regs.r8 != 0x7777 {
                assert_eq!(regs, call, "the call is another");
                return asked;
            }
            regs.rax = self.answer(&regs);
            // It makes the call once more.
            regs.rcx += 2;
        }
        panic!("there is no end of questions");
    }

    fn answer(&self, regs: &kvm_regs) -> u64 {
        let file = |register: u64| self.files.get(&i32::try_from(register).unwrap());
        let put = |address, bytes: &[u8]| {
            assert!(Memory(&self.memory).write_user(ROOT, address, bytes));
            bytes.len() as u64
        };
        let number = c_long::try_from(regs.rax).unwrap();
        self.asked.borrow_mut().push(number);
        match number {
            libc::SYS_getpid => self.pid,
            libc::SYS_getppid => 1,
            libc::SYS_fcntl => 0,
            libc::SYS_lseek => file(regs.rdi).map_or(ERROR, |file| file.offset as u64),
            libc::SYS_readlink => {
                let link = Memory(&self.memory).read_user_text(ROOT, regs.rdi, 100);
                let link = String::from_utf8(link.unwrap()).unwrap();
                match link.strip_prefix("/proc/self/fd/") {
                    Some(fd) => put(regs.rsi, self.files[&fd.parse().unwrap()].path.as_bytes()),
                    None => put(regs.rsi, self.executable.as_bytes()),
                }
            }
            libc::SYS_fstat => {
                let Some(file) = file(regs.rdi) else {
                    return NO_DESCRIPTOR;
                };
                let is_device = file.path.starts_with("/dev");
                let mode = if is_device { 0o020_644 } else { 0o100_644 };
                // The descriptor stands for the file.
                let device = file_system(file.path).0;
                let inode = self.inode.unwrap_or(regs.rdi);
                let words = [device, inode, 1, mode, 0, 0, file.content.len() as u64];
                put(regs.rsi, words.map(u64::to_le_bytes).as_flattened());
                0
            }
            libc::SYS_fstatfs => {
                let Some([magic, id]) = file_system(file(regs.rdi).unwrap().path).1 else {
                    return ERROR;
                };
                put(regs.rsi, &magic.to_le_bytes());
                put(regs.rsi + 56, &id.to_le_bytes());
                0
            }
            libc::SYS_ioctl if file(regs.rdi).unwrap().path.starts_with("/proc") => ERROR,
            libc::SYS_ioctl => {
                // One extent, at as many MiB as its descriptor says.
                let words = [0, regs.rdi << 20, 1 << 20, 0, 0, 1];
                put(regs.rdx + 20, &1_u32.to_le_bytes());
                put(regs.rdx + 32, words.map(u64::to_le_bytes).as_flattened());
                0
            }
            libc::SYS_pread64 => {
                let file = file(regs.rdi).unwrap();
                assert!(!file.path.starts_with("/proc"), "what is read is gone");
                let content = &file.content;
                let from = content.len().min(usize::try_from(regs.r10).unwrap());
                let len = usize::try_from(regs.rdx).unwrap().min(content.len() - from);
                put(regs.rsi, &content[from..from + len])
            }
            libc::SYS_madvise if self.has_room => {
                assert_eq!([regs.rdi, regs.rsi], [MEMORY - 4096, 4096]);
                let page = 0x60_0000 | 0x87;
                Memory(&self.memory).set_entry(0x3000, 0, page).unwrap();
                0
            }
            libc::SYS_madvise => ERROR,
            other => panic!("call {other} is asked for"),
        }
    }

    /// Reads the next bytes of a file into the buffer; returns them.
    fn read(&mut self, fd: i32) -> Vec<u8> {
        self.read_and_count(fd).0
    }

    /// Returns also how often something is asked.
    fn read_and_count(&mut self, fd: i32) -> (Vec<u8>, u32) {
        let asked = self.call(
            libc::SYS_read,
            [
                u64::from(fd.unsigned_abs()),
                BUFFER,
                CHUNK_BYTES as u64,
                0,
                0,
                0,
            ],
        );
        let file = self.files.get_mut(&fd).unwrap();
        let end = file.content.len().min(file.offset + CHUNK_BYTES);
        let bytes = file.content[file.offset..end].to_vec();
        file.offset = end;
        self.put(BUFFER, &bytes);
        (bytes, asked)
    }

    /// Makes a call that the stub only notes, if it would.
    fn note(&mut self, number: c_long, [fd, address, len]: [u64; 3]) {
        let quiet = self.quiet(i32::try_from(fd).unwrap());
        let noted = match number {
            libc::SYS_read => quiet.reads,
            libc::SYS_write => quiet.writes,
            _ => true,
        };
        assert!(noted, "call {number} would exit");
        self.take_note(number, [fd, address, len]);
    }

    /// Looks at a note that is there, whoever made it.
    fn take_note(&mut self, number: c_long, [fd, address, len]: [u64; 3]) {
        let regs = kvm_regs {
            rax: number.cast_unsigned(),
            rdi: fd,
            rsi: address,
            rdx: len,
            ..Default::default()
        };
        let note = Note {
            serial: 0,
            regs,
            cr3: ROOT.table | 3,
        };
        self.window.put_note(0, &note);
        let scene = Scene {
            memory: Memory(&self.memory),
            window: &self.window,
            root: Root {
                table: 0,
                five_levels: false,
            },
            fs_base: &|| None,
            now_ms: 0,
        };
        self.observer.take_notes(&scene);
    }

    fn quiet(&self, fd: i32) -> Quiet {
        self.window.quiet(process_bit(ROOT.table), fd)
    }

    fn close(&mut self, fd: i32) -> u32 {
        let fd = u64::from(fd.unsigned_abs());
        self.call(libc::SYS_close, [fd, 0, 0, 0, 0, 0])
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        assert!(Memory(&self.memory).write_user(ROOT, address, bytes));
    }

    /// Writes what is in the buffer. How often something is asked.
    fn write(&mut self, fd: i32, len: usize) -> u32 {
        self.call(
            libc::SYS_write,
            [u64::from(fd.unsigned_abs()), BUFFER, len as u64, 0, 0, 0],
        )
    }

    /// What is known of a content that reaches the disk.
    fn mark(&mut self, content: &[u8]) -> Option<Mark> {
        let mut block = [0; BLOCK_BYTES];
        let len = content.len().min(BLOCK_BYTES);
        block[..len].copy_from_slice(&content[..len]);
        let hash = self.fingerprinter.of(&block)?;
        self.observer.find(hash)
    }

    fn dedup(&mut self, content: &[u8]) -> Option<DedupHint> {
        self.mark(content).map(|mark| mark.dedup)
    }

    /// What the places of files are said to be, that are about to be read.
    fn take(&mut self) -> Vec<(VolumeName, Located)> {
        self.observer.located.take(0, &mut self.looked_at)
    }

    /// By descriptor.
    fn located(&mut self) -> Vec<(u64, DedupHint)> {
        let located = self.take().into_iter();
        let place = |located: Located| (located.range.start >> 20, located.dedup);
        located.map(|(_, located)| place(located)).collect()
    }

    /// How often a call was asked for.
    fn asked(&self, number: c_long) -> usize {
        let asked = self.asked.borrow();
        asked.iter().filter(|&&other| other == number).count()
    }
}

#[test]
fn a_copy_is_expected_on_both_sides_until_the_source_is_closed() {
    let mut guest = Guest::new("on", "/bin/copier");
    guest.open(3, "/srv/source", random(1, 4 * CHUNK_BYTES));
    guest.open(4, "/srv/target", Vec::new());
    let bytes = guest.read(3);
    assert_eq!(guest.located(), [(3, DedupHint::None)]);
    guest.write(4, bytes.len());
    // Though it looks random, and from the first block on.
    for page in bytes.chunks(BLOCK_BYTES) {
        assert_eq!(guest.dedup(page), Some(DedupHint::Prefetch));
    }
    let bytes = guest.read(3);
    assert_eq!(guest.located(), [(3, DedupHint::Prefetch)]);
    assert_eq!(guest.write(4, bytes.len()), 0, "nothing is missing");
    assert_eq!(guest.dedup(&bytes), Some(DedupHint::Prefetch));
    let counts = guest.observer.counts;
    assert_eq!((counts.copies, counts.unique_files), (1, 0));
    guest.call(libc::SYS_close, [4, 0, 0, 0, 0, 0]);
    guest.read(3);
    assert_eq!(guest.located(), [(3, DedupHint::None)]);
}

#[test]
fn files_of_btrfs_are_placed_by_what_it_is() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    let files = [(3, "/btrfs/a"), (4, "/btrfs/b"), (5, "/srv/c")];
    for (fd, path) in files {
        guest.open(fd, path, vec![b'x'; 4096]);
        guest.read(fd);
    }
    let named = |(name, located): (VolumeName, Located)| (name, located.range.start >> 20);
    let taken: Vec<_> = guest.take().into_iter().map(named).collect();
    let btrfs = VolumeName::Btrfs(BTRFS_ID);
    let expected = [(VolumeName::Partition(0), 5), (btrfs, 3), (btrfs, 4)];
    assert_eq!(taken, expected);
    assert_eq!(guest.asked(libc::SYS_fstatfs), 1);
    // Where another kernel begins, numbers are others.
    guest.observer.meet_all(&guest.window);
    guest.read(3);
    assert_eq!(guest.asked(libc::SYS_fstatfs), 2);
}

#[test]
fn a_number_is_asked_about_again_after_many_files() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    for _ in 0..100 {
        guest.open(3, "/btrfs/a", vec![b'x'; 4096]);
        guest.read(3);
        guest.close(3);
    }
    assert_eq!(guest.asked(libc::SYS_fstatfs), 2);
    assert_eq!(guest.located().len(), 100);
}

#[test]
fn places_of_files_on_no_disk_are_asked_for_only_to_find_copies() {
    for looks_for_alike in [false, true] {
        let mut guest = Guest::with("on", "/bin/reader", looks_for_alike);
        for fd in [3, 4] {
            guest.open(fd, "/tmp/file", vec![b'x'; 4096]);
            guest.read(fd);
            assert!(guest.quiet(fd).reads);
        }
        assert_eq!(guest.asked(libc::SYS_fstatfs), 1);
        let asked = guest.asked(libc::SYS_ioctl);
        assert_eq!(asked, if looks_for_alike { 2 } else { 0 });
        assert_eq!(guest.located(), []);
    }
}

/// As for want of room, which another process may have.
#[test]
fn what_is_not_answered_is_asked_with_the_next_file() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    for fd in [3, 4] {
        guest.open(fd, "/silent/file", vec![b'x'; 4096]);
        for _ in 0..2 {
            guest.read(fd);
        }
        assert!(guest.quiet(fd).reads);
    }
    assert_eq!(guest.asked(libc::SYS_fstatfs), 2);
    assert_eq!(guest.asked(libc::SYS_ioctl), 0);
}

#[test]
fn what_is_encrypted_in_its_place_is_unique_and_no_copy() {
    let mut guest = Guest::new("on", "/bin/cipher");
    guest.open(3, "/srv/source", vec![b'x'; 4 * CHUNK_BYTES]);
    guest.open(4, "/srv/target", Vec::new());
    for round in 0..3 {
        guest.read(3);
        let ciphertext = random(round, CHUNK_BYTES);
        guest.put(BUFFER, &ciphertext);
        guest.write(4, CHUNK_BYTES);
        assert_eq!(guest.dedup(&ciphertext), Some(DedupHint::NoDedup));
    }
    assert_eq!(guest.located(), [(3, DedupHint::None)]);
    let counts = guest.observer.counts;
    assert_eq!((counts.copies, counts.unique_files), (0, 1));
}

#[test]
fn files_that_are_nowhere_are_not_read() {
    let mut guest = Guest::new("on", "/bin/cat");
    guest.open(3, "/proc/kmsg", vec![b'x'; 2 * CHUNK_BYTES]);
    guest.open(4, "/srv/target", Vec::new());
    for _ in 0..2 {
        let bytes = guest.read(3);
        guest.write(4, bytes.len());
        assert_eq!(guest.dedup(&bytes), Some(DedupHint::None));
    }
}

#[test]
fn the_kernel_s_own_copies_are_known_before_they_read() {
    for (number, arguments) in [
        (libc::SYS_copy_file_range, [3, 0, 4, 0, 1 << 20, 0]),
        (libc::SYS_sendfile, [4, 3, 0, 1 << 20, 0, 0]),
    ] {
        let mut guest = Guest::new("on", "/bin/copier");
        guest.open(3, "/srv/source", random(1, CHUNK_BYTES));
        guest.open(4, "/srv/target", Vec::new());
        guest.call(number, arguments);
        assert_eq!(guest.located(), [(3, DedupHint::Prefetch)]);
        assert_eq!(guest.observer.counts.copies, 1);
    }
}

#[test]
fn names_of_programs_and_files_tell_what_is_unique() {
    let dedup = |executable, path, content: &[u8]| {
        let mut guest = Guest::new("on", executable);
        guest.open(4, path, Vec::new());
        guest.put(BUFFER, content);
        guest.write(4, content.len());
        guest.dedup(content).unwrap()
    };
    let text = [b'x'; BLOCK_BYTES];
    assert_eq!(dedup("/bin/sh", "/srv/a", &text), DedupHint::None);
    assert_eq!(dedup("/bin/sh", "/srv/a.gpg", &text), DedupHint::NoDedup);
    assert_eq!(dedup("/bin/gpg", "/srv/a", b"small"), DedupHint::NoDedup);
    // What it decrypts.
    assert_eq!(dedup("/bin/gpg", "/srv/a", &text), DedupHint::None);
}

#[test]
fn what_is_said_at_open_holds_where_nothing_else_is_said() {
    let mut guest = Guest::new("on", "/bin/teller");
    guest.put(PATH, b"./d/told\0");
    guest.open(4, "/srv/other", Vec::new());
    guest.open(5, "/srv/d/told", Vec::new());
    guest.call(libc::SYS_openat, [0, PATH, 0, 0, MAGIC, 0x12]);
    let mut write = |fd, byte, [magic, hint]: [u64; 2]| {
        let page = [byte; BLOCK_BYTES];
        guest.put(BUFFER, &page);
        guest.call(
            libc::SYS_write,
            [fd, BUFFER, BLOCK_BYTES as u64, 0, magic, hint],
        );
        let mark = guest.mark(&page).unwrap();
        (mark.class, mark.dedup)
    };
    let nothing = [0, 0x12];
    assert_eq!(
        write(4, 1, nothing),
        (Class::Below1Mib, DedupHint::None),
        "of another file"
    );
    let said = (Class::Below5Mib, DedupHint::NoDedup);
    assert_eq!(write(5, 2, nothing), said);
    let other = (Class::Metadata, DedupHint::Prefetch);
    assert_eq!(write(5, 3, [MAGIC, 0x25]), other);
    assert_eq!(write(5, 4, nothing), said);
}

#[test]
fn files_elsewhere_are_left_out() {
    let mut guest = Guest::new("on,path=/srv", "/bin/sh");
    guest.open(3, "/srv/a.gpg", Vec::new());
    guest.open(4, "/home/a.gpg", Vec::new());
    for (fd, byte, expected) in [(3, 1, Some(DedupHint::NoDedup)), (4, 2, None)] {
        let page = [byte; BLOCK_BYTES];
        guest.put(BUFFER, &page);
        guest.write(fd, BLOCK_BYTES);
        assert_eq!(guest.dedup(&page), expected);
    }
}

/// A small program has not used the stack yet that a question takes.
#[test]
fn room_for_questions_is_made_once() {
    for has_room in [true, false] {
        let mut guest = Guest::new("on", "/usr/bin/dd");
        guest.open(4, "/disk/small", Vec::new());
        (guest.stack, guest.has_room) = (MEMORY + 0x80, has_room);
        let data = random(1, BLOCK_BYTES);
        guest.put(BUFFER, &data);
        let asked = guest.write(4, BLOCK_BYTES);
        assert_eq!(guest.mark(&data).is_some(), has_room, "{asked} asked");
        let again = guest.write(4, BLOCK_BYTES);
        assert!(again < asked, "{again} after {asked}");
    }
}

/// Each question is an exit of its own.
#[test]
fn what_is_known_or_of_no_use_is_not_asked() {
    let mut guest = Guest::with("on", "/bin/mailer", false);
    guest.call(libc::SYS_execve, [PATH, 0, 0, 0, 0, 0]);
    for fd in 3..6 {
        guest.open(fd, "/srv/mail", Vec::new());
    }
    let who_and_what = guest.write(3, 4096);
    assert_eq!(who_and_what, 2, "who it is, and what 3 is");
    assert_eq!((guest.write(3, 4096), guest.close(3)), (0, 0));
    assert_eq!((guest.write(4, 32_768), guest.close(4)), (2, 0), "its name");
    // Where it stands says how it was opened, too: it may write where it is, or append.
    guest.call(libc::SYS_lseek, [5, 100, 0, 0, 0, 0]);
    assert_eq!(guest.write(5, 4096), 3);
    guest.open(6, "/srv/small", vec![b'x'; 4096]);
    guest.open(7, "/srv/large", vec![b'x'; 2 * CHUNK_BYTES]);
    let mut reads = |fd| [(); 3].map(|()| guest.read_and_count(fd).1);
    assert_eq!(reads(6), [2, 0, 0], "what it is, and where");
    assert_eq!(reads(7), [3, 0, 0], "what and where it is, and its name");
    assert_eq!(guest.close(7), 0);
}

#[test]
fn what_was_written_first_is_of_the_class_that_the_file_has_when_it_reaches_the_disk() {
    let mut guest = Guest::new("on", "/bin/writer");
    guest.open(4, "/srv/large", Vec::new());
    let first = random(0, CHUNK_BYTES);
    for number in 0..32 {
        guest.put(BUFFER, &random(number, CHUNK_BYTES));
        guest.write(4, CHUNK_BYTES);
        let class = guest.mark(&first).unwrap().class;
        let size_bytes = (number + 1) * CHUNK_BYTES as u64;
        assert_eq!(class, Class::of_file(size_bytes), "{size_bytes}");
    }
    // What it says itself stays.
    let said = random(100, BLOCK_BYTES);
    guest.put(BUFFER, &said);
    let arguments = [4, BUFFER, BLOCK_BYTES as u64, 0, MAGIC, 4];
    guest.call(libc::SYS_write, arguments);
    assert_eq!(guest.mark(&said).unwrap().class, Class::Below1Mib);
}

#[test]
fn a_question_of_who_was_killed_is_not_waited_for() {
    for shared in [false, true] {
        let mut guest = Guest::with("on", "/bin/reader", false);
        guest.open(3, "/srv/file", vec![b'x'; 4096]);
        guest.read(3);
        guest.call(libc::SYS_close, [3, 0, 0, 0, 0, 0]);
        guest.observer.processes.get_mut(ROOT.table).unwrap().shared = shared;
        let mut regs = kvm_regs {
            rax: libc::SYS_read.cast_unsigned(),
            rdi: 3,
            rsi: BUFFER,
            rdx: 1,
            rsp: STACK,
            rcx: 0x1002,
            ..Default::default()
        };
        let scene = Scene {
            memory: Memory(&guest.memory),
            window: &guest.window,
            root: ROOT,
            fs_base: &|| Some(1),
            now_ms: 0,
        };
        assert!(guest.observer.call(&scene, &mut regs), "it is asked");
        // It is killed, and another has its page tables.
        guest.observer.processes.forks(0x9000, false, || None);
        guest.pid = 11;
        guest.read(3);
        let abandoned = guest.observer.counts.abandoned;
        assert_eq!(abandoned, u64::from(!shared));
        assert_eq!(guest.observer.questions.is_empty(), !shared);
    }
}
