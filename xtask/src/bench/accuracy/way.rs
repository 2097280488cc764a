//! The ways in which files come to be, or are met, each on a disk of its own.

use std::fmt::Write as _;

use crate::bench::file_system::Kind;

const MIB: u64 = 1 << 20;
/// What most ways need, and XFS at least, in bytes.
const DISK_BYTES: u64 = 1 << 30;
/// Room for one small file: a block of content, its part of an inode table, and as much again.
const SMALL_FILE_BYTES: u64 = 20 << 10;
/// A cache that all content of most ways fits in, in bytes.
const CACHE_BYTES: u64 = 128 << 20;
/// Files that are there before the guest starts that reads them: 20 below 1 MiB, 2 of 3 to 4 MB.
const COLD: [&str; 2] = ["20 64 512 65536 write 101", "2 3000 4000 65536 write 102"];

/// What is looked at in a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Files that `guest-syscalls generate` makes: the name of the row, then files, least and
    /// greatest KiB, bytes at a time, mode.
    Made(&'static str, &'static str),
    /// Blocks of zeros, which say nothing: all of the disk's zeros count.
    Zeros,
    /// Each file twice, with the same content.
    Twice,
    /// Many files of 1 to 4 KiB.
    Small,
    /// Files that were there before the guest started are read.
    Cold,
}

/// All of them but [`Way::Small`], which takes a number.
const WAYS: [Way; 16] = [
    Way::Made("write, 4096 bytes", "20 64 512 4096 write"),
    Way::Made("write, 3 to 4 MB", "2 3000 4000 65536 write"),
    Way::Made("pwrite, any order", "2 64 512 65536 pwrite"),
    Way::Made("writev, three pieces", "5 64 1500 65536 writev"),
    Way::Made("pwritev, backwards", "5 64 512 65536 pwritev"),
    Way::Made("O_DIRECT", "5 64 512 65536 direct"),
    Way::Made("appends, 1000 bytes", "5 64 128 1000 append"),
    Way::Made("two descriptors", "5 64 512 10000 dup"),
    Way::Made("two processes", "5 64 512 10000 fork"),
    Way::Made("sendfile", "5 64 1500 65536 sendfile"),
    Way::Made("copy_file_range", "5 64 1500 65536 copy-file-range"),
    Way::Made("mmap, shared", "5 64 1500 65536 mmap"),
    Way::Zeros,
    Way::Twice,
    Way::Cold,
    Way::Small,
];

impl Way {
    /// All of them.
    pub(super) fn all() -> &'static [Self] {
        &WAYS
    }

    /// The name of its row.
    pub(super) fn name(self, small_files: u32) -> String {
        match self {
            Self::Made(name, _) => name.to_owned(),
            Self::Zeros => "zeros".to_owned(),
            Self::Twice => "the same content twice".to_owned(),
            Self::Small => format!("{small_files} files of 1 to 4 KiB"),
            Self::Cold => "there before, and read".to_owned(),
        }
    }

    /// The sizes of its disk and of the cache in front, in bytes.
    pub(super) fn sizes(self, small_files: u32) -> (u64, u64) {
        let extra = match self {
            Self::Small => u64::from(small_files) * SMALL_FILE_BYTES,
            _ => 0,
        };
        let whole = |bytes: u64| bytes.next_multiple_of(MIB);
        (whole(DISK_BYTES + extra), whole(CACHE_BYTES + extra))
    }

    /// What the guest does in the file system on `mount`, in words for its shell. With another `seed`,
    /// content is another: what was written in one way would be known in all others.
    pub(super) fn work(self, mount: &str, small_files: u32, seed: usize) -> String {
        let generate =
            |what: &str| format!("guest-syscalls generate {mount} {what} {seed} && sync");
        match self {
            Self::Made(_, what) => generate(what),
            Self::Zeros => generate("5 64 1500 65536 zeros"),
            Self::Twice => {
                let made = format!("10 64 512 4096 write {seed}");
                format!(
                    "mkdir {mount}/a {mount}/b && guest-syscalls generate {mount}/a {made} && \
                     sync && guest-syscalls generate {mount}/b {made} && sync"
                )
            }
            Self::Small => generate(&format!("{small_files} 1 4 65536 write")),
            Self::Cold => format!("guest-syscalls read {mount}/0 && guest-syscalls read {mount}/1"),
        }
    }

    /// What an earlier guest does there.
    pub(super) fn preparation(self, mount: &str) -> Option<String> {
        (self == Self::Cold).then(|| {
            let mut work = format!("mkdir {mount}/0 {mount}/1");
            for (number, made) in COLD.iter().enumerate() {
                let _ = write!(work, " && guest-syscalls generate {mount}/{number} {made}");
            }
            work
        })
    }
}

/// Mounts disk number `number` of a guest, where words for its shell say.
pub(super) fn mount(kind: Kind, number: usize, place: &str) -> String {
    let letter = char::from(b'a' + u8::try_from(number % 26).unwrap_or(0));
    format!(
        "mkdir -p {place} && mount -t {} /dev/vd{letter} {place}",
        kind.name()
    )
}
