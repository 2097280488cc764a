//! Insight-calls: what a process is made to ask its own kernel.
//!
//! At the stub, the registers of a call are exchanged for those of another, which only reads. The
//! return address is set back onto the SYSCALL instruction, so that the process makes the call once
//! more when the first has returned; a random number in R8, which no call that is asked here looks
//! at, tells that apart from all others, whatever thread or processor it comes from. Then the
//! registers are what they were, and the call goes on.

use kvm_bindings::kvm_regs;

use super::named::Named;

/// The length of SYSCALL.
const SYSCALL_BYTES: u64 = 2;
const SEEK_CUR: u64 = 1;
const F_GETFL: u64 = 3;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const FS_IOC_FIEMAP: u64 = 0xc020_660b;
/// The kernel's errors are the last 4095 values.
const ERRORS_FROM: u64 = u64::MAX - 4094;
/// EBADF.
const NO_DESCRIPTOR: u64 = 9_u64.wrapping_neg();

/// Extents that one question brings.
pub(super) const EXTENTS_MAX: usize = 16;
/// `struct stat` of x86-64.
const STAT_BYTES: usize = 144;
/// `struct statfs` of x86-64.
const STATFS_BYTES: usize = 120;
/// `struct fiemap`, with so many `struct fiemap_extent` behind it.
const FIEMAP_BYTES: usize = 32;
const FIEMAP_EXTENT_BYTES: usize = 56;
/// What is asked of a file's content at a time: as much as tells contents apart.
pub(super) const CONTENT_BYTES: usize = 512;
/// The longest path that is asked for.
const PATH_BYTES: usize = 512;
/// `/proc/self/fd/` and a number, or `/proc/self/exe`.
const LINK_BYTES: usize = 32;

const MADV_POPULATE_WRITE: u64 = 23;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Which process this is.
    Pid,
    /// Which process made it.
    ParentPid,
    /// What it executes.
    Executable,
    /// What a descriptor stands for.
    Stat { fd: i32 },
    /// How it was opened.
    Flags { fd: i32 },
    /// Where it stands.
    Offset { fd: i32 },
    /// What its file is called.
    Path { fd: i32 },
    /// Where its file is on the disk, from a position on.
    Extents { fd: i32, from: u64 },
    /// What kind of file system its file is in, and which.
    FileSystem { fd: i32 },
    /// What its file has at a position, to be compared with what the process has at an address. The
    /// file must be one that FIEMAP knows places of: those stay what they are when they are read, and
    /// that is interrupted by nothing that the process survives.
    Content { fd: i32, from: u64, address: u64 },
    /// What a path of its own stands for.
    StatNamed(Named),
    /// Nothing: the kernel brings in so many bytes of pages that the next question needs, as if the
    /// process had written there (madvise(2), since Linux 5.14).
    Room { address: u64, bytes: u64 },
}

/// A stretch of a file on its disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileExtent {
    pub(super) logical: u64,
    pub(super) physical: u64,
    pub(super) len: u64,
    /// Whether `physical` says where it is.
    pub(super) located: bool,
    pub(super) last: bool,
}

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) mode: u32,
    /// How many names it has.
    pub(super) links: u64,
    pub(super) size_bytes: u64,
}

/// What a file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatFs {
    /// `f_type`.
    pub(super) kind: u64,
    /// `f_fsid`.
    pub(super) id: [u32; 2],
}

/// What the kernel said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Number(u64),
    Stat(Stat),
    Text(Vec<u8>),
    Extents(Vec<FileExtent>),
    FileSystem(StatFs),
    Content(Vec<u8>),
    /// What was asked about is no descriptor.
    NoDescriptor,
    /// It refused, or could not be asked.
    Refused,
}

impl Question {
    /// How much memory of the process the question and its answer take, in bytes.
    pub(super) fn scratch_bytes(self) -> usize {
        match self {
            Self::Pid
            | Self::ParentPid
            | Self::Flags { .. }
            | Self::Offset { .. }
            | Self::Room { .. } => 0,
            Self::Stat { .. } | Self::StatNamed(_) => STAT_BYTES,
            Self::FileSystem { .. } => STATFS_BYTES,
            Self::Executable | Self::Path { .. } => LINK_BYTES + PATH_BYTES,
            Self::Extents { .. } => FIEMAP_BYTES + EXTENTS_MAX * FIEMAP_EXTENT_BYTES,
            Self::Content { .. } => CONTENT_BYTES,
        }
    }

    /// What is in that memory before the call.
    pub(super) fn scratch(self) -> Vec<u8> {
        let mut bytes = match self {
            Self::Executable => b"/proc/self/exe".to_vec(),
            Self::Path { fd } => format!("/proc/self/fd/{fd}").into_bytes(),
            Self::Extents { from, .. } => {
                // fm_start, fm_length, fm_flags and fm_mapped_extents, fm_extent_count.
                let head = [from, u64::MAX - from, 0, EXTENTS_MAX as u64];
                head.iter().flat_map(|word| word.to_le_bytes()).collect()
            }
            _ => Vec::new(),
        };
        bytes.resize(self.scratch_bytes(), 0);
        bytes
    }

    /// The registers that ask it in place of `call`, with its memory at `scratch`.
    pub(super) fn registers(
        self,
        call: &kvm_regs,
        scratch: u64,
        nonce: u64,
        serial: u64,
    ) -> kvm_regs {
        let descriptor = |fd: i32| u64::from(fd.cast_unsigned());
        let (number, arguments) = match self {
            Self::Pid => (libc::SYS_getpid, [0; 3]),
            Self::ParentPid => (libc::SYS_getppid, [0; 3]),
            Self::Stat { fd } => (libc::SYS_fstat, [descriptor(fd), scratch, 0]),
            Self::Flags { fd } => (libc::SYS_fcntl, [descriptor(fd), F_GETFL, 0]),
            Self::Offset { fd } => (libc::SYS_lseek, [descriptor(fd), 0, SEEK_CUR]),
            Self::Executable | Self::Path { .. } => (
                libc::SYS_readlink,
                [scratch, scratch + LINK_BYTES as u64, PATH_BYTES as u64],
            ),
            Self::Extents { fd, .. } => (libc::SYS_ioctl, [descriptor(fd), FS_IOC_FIEMAP, scratch]),
            Self::FileSystem { fd } => (libc::SYS_fstatfs, [descriptor(fd), scratch, 0]),
            Self::Content { fd, .. } => (
                libc::SYS_pread64,
                [descriptor(fd), scratch, CONTENT_BYTES as u64],
            ),
            Self::Room { address, bytes } => {
                (libc::SYS_madvise, [address, bytes, MADV_POPULATE_WRITE])
            }
            Self::StatNamed(named) => {
                let directory = descriptor(named.directory);
                (libc::SYS_newfstatat, [directory, named.path, scratch])
            }
        };
        let fourth = match self {
            Self::Content { from, .. } => from,
            Self::StatNamed(named) if !named.follows => AT_SYMLINK_NOFOLLOW,
            Self::StatNamed(_) => 0,
            _ => call.r10,
        };
        kvm_regs {
            rax: number.cast_unsigned(),
            rdi: arguments[0],
            rsi: arguments[1],
            rdx: arguments[2],
            r10: fourth,
            r8: nonce,
            r9: serial,
            rcx: call.rcx.wrapping_sub(SYSCALL_BYTES),
            ..*call
        }
    }

    /// The answer: what the call returned, and what it left in its memory.
    pub(super) fn answer(self, returned: u64, scratch: &[u8]) -> Answer {
        if returned >= ERRORS_FROM {
            return match self {
                Self::Stat { .. } if returned == NO_DESCRIPTOR => Answer::NoDescriptor,
                _ => Answer::Refused,
            };
        }
        match self {
            Self::Pid
            | Self::ParentPid
            | Self::Flags { .. }
            | Self::Offset { .. }
            | Self::Room { .. } => Answer::Number(returned),
            Self::Stat { .. } | Self::StatNamed(_) => Answer::Stat(Stat {
                device: word(scratch, 0),
                inode: word(scratch, 8),
                links: word(scratch, 16),
                mode: half_word(scratch, 24),
                size_bytes: word(scratch, 48),
            }),
            Self::Executable | Self::Path { .. } => {
                let len = usize::try_from(returned).unwrap_or(0).min(PATH_BYTES);
                let text = scratch.get(LINK_BYTES..LINK_BYTES + len);
                text.map_or(Answer::Refused, |text| Answer::Text(text.to_vec()))
            }
            Self::Extents { .. } => Answer::Extents(extents(scratch)),
            Self::FileSystem { .. } => Answer::FileSystem(StatFs {
                kind: word(scratch, 0),
                id: [half_word(scratch, 56), half_word(scratch, 60)],
            }),
            Self::Content { .. } => {
                let len = usize::try_from(returned).unwrap_or(0).min(scratch.len());
                Answer::Content(scratch[..len].to_vec())
            }
        }
    }
}

/// `struct fiemap_extent`s (Linux, Documentation/filesystems/fiemap.rst).
fn extents(scratch: &[u8]) -> Vec<FileExtent> {
    const LAST: u32 = 1;
    // FIEMAP_EXTENT_UNKNOWN, _DELALLOC, _ENCODED, _NOT_ALIGNED, _DATA_INLINE and _DATA_TAIL.
    const NOWHERE: u32 = 0x2 | 0x4 | 0x8 | 0x100 | 0x200 | 0x400;
    let mapped = half_word(scratch, 20) as usize;
    let found = scratch.get(FIEMAP_BYTES..).unwrap_or_default();
    found
        .chunks_exact(FIEMAP_EXTENT_BYTES)
        .take(mapped)
        .map(|extent| {
            let flags = half_word(extent, 40);
            FileExtent {
                logical: word(extent, 0),
                physical: word(extent, 8),
                len: word(extent, 16),
                located: flags & NOWHERE == 0,
                last: flags & LAST != 0,
            }
        })
        .collect()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    u64::from_le_bytes(word.unwrap_or_default())
}

fn half_word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    u32::from_le_bytes(word.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    /// Has this host's own kernel answer, which is the one to ask about its structures.
    fn ask(question: Question) -> Answer {
        let mut scratch = question.scratch();
        let regs = question.registers(&kvm_regs::default(), scratch.as_mut_ptr() as u64, 1, 2);
        let returned = call(&regs);
        question.answer(returned, &scratch)
    }

    #[expect(unsafe_code, reason = "makes a system call")]
    #[expect(clippy::cast_possible_wrap, reason = "registers are numbers")]
    fn call(regs: &kvm_regs) -> u64 {
        // SAFETY: the calls of questions only write to their scratch, whose address they are given.
        let returned = unsafe {
            libc::syscall(
                regs.rax as i64,
                regs.rdi,
                regs.rsi,
                regs.rdx,
                regs.r10,
                1,
                2,
            )
        };
        if returned < 0 {
            return u64::MAX;
        }
        returned.cast_unsigned()
    }

    #[test]
    fn the_kernel_understands_the_questions_and_is_understood() {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        std::fs::write(file.path(), vec![7; 10_000]).unwrap();
        let opened = File::open(file.path()).unwrap();
        let fd = opened.as_raw_fd();
        let Answer::Stat(stat) = ask(Question::Stat { fd }) else {
            panic!("no stat")
        };
        let expected = opened.metadata().unwrap();
        assert_eq!(
            (stat.device, stat.inode, stat.mode, stat.size_bytes),
            (expected.dev(), expected.ino(), expected.mode(), 10_000)
        );
        assert_eq!(ask(Question::Offset { fd }), Answer::Number(0));
        assert_eq!(
            ask(Question::Pid),
            Answer::Number(std::process::id().into())
        );
        for (from, len) in [(0, CONTENT_BYTES), (9_900, 100), (10_000, 0)] {
            let address = 0;
            let content = ask(Question::Content { fd, from, address });
            assert_eq!(content, Answer::Content(vec![7; len]));
        }
        let path = file.path().as_os_str().as_encoded_bytes().to_vec();
        assert_eq!(ask(Question::Path { fd }), Answer::Text(path));
        assert_eq!(ask(Question::Stat { fd: -1 }), Answer::Refused);
        assert_eq!(ask(Question::FileSystem { fd: -1 }), Answer::Refused);
        let exe = std::env::current_exe().unwrap();
        let exe = exe.as_os_str().as_encoded_bytes().to_vec();
        assert_eq!(ask(Question::Executable), Answer::Text(exe));
    }

    #[test]
    fn a_path_is_found_as_the_call_itself_finds_it() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), [7; 100]).unwrap();
        std::fs::hard_link(path("file"), path("other")).unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        let opened = File::open(directory.path()).unwrap();
        let ask_for = |name: &std::ffi::CStr, follows| {
            ask(Question::StatNamed(Named {
                directory: opened.as_raw_fd(),
                path: name.as_ptr() as u64,
                follows,
            }))
        };
        let Answer::Stat(file) = ask_for(c"file", false) else {
            panic!("no stat")
        };
        assert_eq!((file.links, file.size_bytes), (2, 100));
        assert_eq!(ask_for(c"link", true), Answer::Stat(file));
        assert_ne!(ask_for(c"link", false), Answer::Stat(file));
        assert_eq!(ask_for(c"nothing", false), Answer::Refused);
    }

    #[test]
    fn a_file_system_says_what_it_is() {
        let proc = File::open("/proc/self/status").unwrap();
        let fd = proc.as_raw_fd();
        let said = ask(Question::FileSystem { fd });
        let Answer::FileSystem(StatFs { kind, .. }) = said else {
            panic!("{said:?}")
        };
        // PROC_SUPER_MAGIC.
        assert_eq!(kind, 0x9fa0);
        let question = Question::FileSystem { fd: 3 };
        let mut scratch = question.scratch();
        scratch[..8].copy_from_slice(&0x9123_683e_u64.to_le_bytes());
        scratch[56..64].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
        let btrfs = StatFs {
            kind: 0x9123_683e,
            id: [1, 2],
        };
        assert_eq!(question.answer(0, &scratch), Answer::FileSystem(btrfs));
    }

    #[test]
    fn extents_are_read_as_far_as_there_are() {
        let question = Question::Extents { fd: 3, from: 0 };
        let mut scratch = question.scratch();
        scratch[20..24].copy_from_slice(&2_u32.to_le_bytes());
        for (number, (physical, flags)) in
            [(0x10_0000_u64, 0_u32), (0, 0x5)].into_iter().enumerate()
        {
            let at = FIEMAP_BYTES + number * FIEMAP_EXTENT_BYTES;
            scratch[at + 8..at + 16].copy_from_slice(&physical.to_le_bytes());
            scratch[at + 16..at + 24].copy_from_slice(&4096_u64.to_le_bytes());
            scratch[at + 40..at + 44].copy_from_slice(&flags.to_le_bytes());
        }
        let Answer::Extents(extents) = question.answer(0, &scratch) else {
            panic!("no extents")
        };
        let seen: Vec<_> = extents
            .iter()
            .map(|e| (e.physical, e.located, e.last))
            .collect();
        assert_eq!(seen, [(0x10_0000, true, false), (0, false, true)]);
        // More than there is room for is what a hostile guest says.
        scratch[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        let Answer::Extents(extents) = question.answer(0, &scratch) else {
            panic!("no extents")
        };
        assert_eq!(extents.len(), EXTENTS_MAX);
    }
}
