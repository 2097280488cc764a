//! System calls as they are at the stub: the number in RAX, the arguments in RDI, RSI, RDX, R10, R8
//! and R9 (System V ABI, AMD64 supplement, section A.2.1).

use std::fmt;

use disk::DedupHint;
use kvm_bindings::kvm_regs;
use libc::c_long;

use super::hint::{Hint, MAGIC};
use super::named::{self, Fate, Named};

const PR_SET_SECCOMP: u64 = 22;
const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
const SECCOMP_SET_MODES: u64 = 1;
const PTRACE_TRACEME: u64 = 0;
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SEIZE: u64 = 0x4206;
const CLONE_VM: u64 = 0x100;
const CLONE_THREAD: u64 = 0x1_0000;
const MAP_ANONYMOUS: u64 = 0x20;
const SEEK_SET: u64 = 0;

/// Calls that are looked at whoever makes them: they say which processes there are, and which are to
/// be left alone.
pub(super) const ALWAYS: [c_long; 10] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit_group,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_ptrace,
];

/// Calls that are looked at where their process is watched.
pub(super) const WATCHED: [c_long; 29] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_splice,
    libc::SYS_mmap,
    libc::SYS_lseek,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unshare,
    libc::SYS_setsid,
];

/// Of those, the ones that only read from a descriptor, and only write to it, with one piece of memory;
/// and the one after which it is nothing. Where nothing is to be asked, they are only noted.
pub(super) const READS: [c_long; 2] = [libc::SYS_read, libc::SYS_pread64];
pub(super) const WRITES: [c_long; 2] = [libc::SYS_write, libc::SYS_pwrite64];
pub(super) const CLOSES: [c_long; 1] = [libc::SYS_close];

/// Calls after which a process answers no question: those are looked at while answers are waited for.
pub(super) const LAST_WORDS: [c_long; 3] =
    [libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit_group];

/// Memory of the process that makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UserData {
    /// So many bytes at an address.
    One { address: u64, len: u64 },
    /// So many `struct iovec` at an address.
    Vector { address: u64, count: u64 },
}

/// What is made, as the kernel has it in flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloneFlags {
    /// They are these.
    Are(u64),
    /// They are in memory, at an address.
    At(u64),
}

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// A thread of the same process.
    Thread,
    /// A process that is in its parent's memory until it executes something.
    Guest,
    /// A process with a copy of the memory.
    Process,
}

impl Made {
    /// By flags of clone(2).
    pub(super) fn by(flags: u64) -> Self {
        match (flags & CLONE_THREAD != 0, flags & CLONE_VM != 0) {
            (true, _) => Self::Thread,
            (false, true) => Self::Guest,
            (false, false) => Self::Process,
        }
    }
}

/// A call that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Opens a file, whose path is at an address, and says what its data is. Other opens are not
    /// looked at.
    Open { path: u64, hint: Hint },
    /// Reads a file; without `at`, where its descriptor stands.
    Read {
        fd: i32,
        data: UserData,
        at: Option<u64>,
        /// What the application says.
        hint: Hint,
    },
    /// Writes a file; without `at`, where its descriptor stands.
    Write {
        fd: i32,
        data: UserData,
        at: Option<u64>,
        /// What the application says.
        hint: Hint,
    },
    /// The kernel copies from one descriptor to another by itself.
    Transfer { from: i32, to: i32 },
    /// Maps a file.
    Map { fd: i32 },
    /// Changes where a descriptor stands, or how it writes.
    Change { fd: i32 },
    /// Has a descriptor stand somewhere else; nothing where that depends on what the kernel knows.
    Seek { fd: i32, to: Option<u64> },
    /// Gives a descriptor's file another size.
    Truncate { fd: i32, size_bytes: u64 },
    /// Ends a file, or a part of it.
    End { named: Named, fate: Fate },
    /// Descriptors that are something else afterwards, or nothing.
    Forget { first: u32, last: u32 },
    /// The executable, whose path is at an address, takes the process over.
    Execute { path: u64 },
    /// Makes a process or a thread.
    Clone { flags: CloneFlags },
    /// The process ends.
    Exit,
    /// The process may not make every call from now on.
    Confine,
    /// A process has itself, or another, followed by a debugger.
    Trace { pid: Option<u32> },
    /// Changes what the process is among others.
    Standing,
    /// Of no interest.
    Other,
}

impl Call {
    /// The call that these registers make.
    pub(super) fn decode(regs: &kvm_regs) -> Self {
        let Ok(number) = c_long::try_from(regs.rax) else {
            return Self::Other;
        };
        match number {
            libc::SYS_read
            | libc::SYS_readv
            | libc::SYS_pread64
            | libc::SYS_preadv
            | libc::SYS_preadv2 => Self::read(number, regs),
            libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_pwrite64
            | libc::SYS_pwritev
            | libc::SYS_pwritev2 => Self::write(number, regs),
            libc::SYS_sendfile => Self::Transfer {
                from: fd(regs.rsi),
                to: fd(regs.rdi),
            },
            libc::SYS_copy_file_range | libc::SYS_splice => Self::Transfer {
                from: fd(regs.rdi),
                to: fd(regs.rdx),
            },
            libc::SYS_mmap if regs.r10 & MAP_ANONYMOUS == 0 => Self::Map { fd: fd(regs.r8) },
            libc::SYS_fcntl => Self::Change { fd: fd(regs.rdi) },
            libc::SYS_lseek => Self::Seek {
                fd: fd(regs.rdi),
                to: (regs.rdx & 0xffff_ffff == SEEK_SET).then_some(regs.rsi),
            },
            libc::SYS_ftruncate => Self::Truncate {
                fd: fd(regs.rdi),
                size_bytes: regs.rsi,
            },
            libc::SYS_close | libc::SYS_dup2 | libc::SYS_dup3 | libc::SYS_close_range => {
                Self::forget(number, regs)
            }
            libc::SYS_unshare => Self::Forget {
                first: 0,
                last: u32::MAX,
            },
            _ => match named::decode(number, regs) {
                Some((named, fate)) => Self::End { named, fate },
                None => Self::of_process(number, regs),
            },
        }
    }

    fn cloned(flags: CloneFlags) -> Self {
        Self::Clone { flags }
    }

    fn read(number: c_long, regs: &kvm_regs) -> Self {
        Self::Read {
            fd: fd(regs.rdi),
            data: data(number, regs),
            at: position(number, regs),
            hint: hint(number, regs),
        }
    }

    fn write(number: c_long, regs: &kvm_regs) -> Self {
        Self::Write {
            fd: fd(regs.rdi),
            data: data(number, regs),
            at: position(number, regs),
            hint: hint(number, regs),
        }
    }

    fn forget(number: c_long, regs: &kvm_regs) -> Self {
        let low = |register: u64| u32::try_from(register & 0xffff_ffff).unwrap_or_default();
        let (first, last) = match number {
            libc::SYS_close => (low(regs.rdi), low(regs.rdi)),
            libc::SYS_close_range => (low(regs.rdi), low(regs.rsi)),
            _ => (low(regs.rsi), low(regs.rsi)),
        };
        Self::Forget { first, last }
    }

    fn opened(path: u64, regs: &kvm_regs) -> Self {
        Self::Open {
            path,
            hint: Hint::of(regs.r9),
        }
    }

    fn of_process(number: c_long, regs: &kvm_regs) -> Self {
        match number {
            libc::SYS_execve => Self::Execute { path: regs.rdi },
            libc::SYS_execveat => Self::Execute { path: regs.rsi },
            libc::SYS_fork => Self::cloned(CloneFlags::Are(0)),
            libc::SYS_vfork => Self::cloned(CloneFlags::Are(CLONE_VM)),
            libc::SYS_clone => Self::cloned(CloneFlags::Are(regs.rdi)),
            // The first word of `struct clone_args`.
            libc::SYS_clone3 => Self::cloned(CloneFlags::At(regs.rdi)),
            libc::SYS_exit_group => Self::Exit,
            libc::SYS_prctl if regs.rdi == PR_SET_SECCOMP => Self::Confine,
            // The kernel gives it its calls back, and those that are asked here with them.
            libc::SYS_prctl if regs.rdi == PR_SET_SYSCALL_USER_DISPATCH && regs.rsi != 0 => {
                Self::Confine
            }
            libc::SYS_seccomp if regs.rdi <= SECCOMP_SET_MODES => Self::Confine,
            libc::SYS_ptrace if regs.rdi == PTRACE_TRACEME => Self::Trace { pid: None },
            libc::SYS_ptrace if matches!(regs.rdi, PTRACE_ATTACH | PTRACE_SEIZE) => Self::Trace {
                pid: u32::try_from(regs.rsi).ok(),
            },
            libc::SYS_setsid => Self::Standing,
            libc::SYS_open if regs.r8 == MAGIC => Self::opened(regs.rdi, regs),
            libc::SYS_openat if regs.r8 == MAGIC => Self::opened(regs.rsi, regs),
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |at: &Option<u64>| at.map_or(String::new(), |at| format!(" at={at}"));
        match self {
            Self::Open { hint, .. } => write!(f, "open{hint}"),
            Self::Read { fd, at, hint, .. } => write!(f, "read fd={fd}{}{hint}", place(at)),
            Self::Write { fd, data, at, hint } => {
                write!(f, "write fd={fd}{}", place(at))?;
                match data {
                    UserData::One { len, .. } => write!(f, " bytes={len}{hint}"),
                    UserData::Vector { count, .. } => write!(f, " pieces={count}{hint}"),
                }
            }
            Self::Transfer { from, to } => write!(f, "transfer from={from} to={to}"),
            Self::Map { fd } => write!(f, "map fd={fd}"),
            Self::Change { fd } => write!(f, "change fd={fd}"),
            Self::Seek { fd, to } => write!(f, "seek fd={fd}{}", place(to)),
            Self::Truncate { fd, size_bytes } => write!(f, "truncate fd={fd} bytes={size_bytes}"),
            Self::End { fate, .. } => match fate {
                Fate::Unlinked => f.write_str("unlink"),
                Fate::Truncated(size_bytes) => write!(f, "truncate bytes={size_bytes}"),
            },
            Self::Forget { first, last } if first == last => write!(f, "forget fd={first}"),
            Self::Forget { first, last } => write!(f, "forget fd={first}-{last}"),
            Self::Execute { .. } => f.write_str("execute"),
            Self::Clone { .. } => f.write_str("clone"),
            Self::Exit => f.write_str("exit"),
            Self::Confine => f.write_str("confine"),
            Self::Trace { pid: None } => f.write_str("trace"),
            Self::Trace { pid: Some(pid) } => write!(f, "trace pid={pid}"),
            Self::Standing => f.write_str("setsid"),
            Self::Other => f.write_str("other"),
        }
    }
}

impl fmt::Display for Hint {
    /// What is said, with a space before each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(class) = self.class {
            write!(f, " class={}", class as u8)?;
        }
        match self.dedup {
            Some(DedupHint::NoDedup) => f.write_str(" no-dedup"),
            Some(DedupHint::Prefetch) => f.write_str(" prefetch"),
            Some(DedupHint::None) | None => Ok(()),
        }
    }
}

/// Memory that is read from a file or written to it.
fn data(number: c_long, regs: &kvm_regs) -> UserData {
    let (address, count) = (regs.rsi, regs.rdx);
    match number {
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_write | libc::SYS_pwrite64 => {
            UserData::One {
                address,
                len: count,
            }
        }
        _ => UserData::Vector { address, count },
    }
}

/// What an application says in the last two arguments, where the call has none of its own there.
fn hint(number: c_long, regs: &kvm_regs) -> Hint {
    let free = matches!(
        number,
        libc::SYS_read
            | libc::SYS_readv
            | libc::SYS_pread64
            | libc::SYS_preadv
            | libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_pwrite64
            | libc::SYS_pwritev
    );
    if regs.r8 == MAGIC && free {
        Hint::of(regs.r9)
    } else {
        Hint::default()
    }
}

/// The position that a call names.
fn position(number: c_long, regs: &kvm_regs) -> Option<u64> {
    match number {
        libc::SYS_pread64 | libc::SYS_pwrite64 | libc::SYS_preadv | libc::SYS_pwritev => {
            Some(regs.r10)
        }
        // -1 stands for where the descriptor is.
        libc::SYS_preadv2 | libc::SYS_pwritev2 => Some(regs.r10).filter(|at| *at != u64::MAX),
        _ => None,
    }
}

/// A descriptor is an `int`: the upper half of the register is not looked at.
#[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
pub(super) fn fd(register: u64) -> i32 {
    register as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: c_long, arguments: [u64; 6]) -> Call {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        Call::decode(&kvm_regs {
            rax: number.cast_unsigned(),
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..Default::default()
        })
    }

    #[test]
    fn writes_say_what_where_and_of_which_class() {
        assert_eq!(
            call(libc::SYS_pwrite64, [3 | 7 << 32, 0x1000, 5, 4096, MAGIC, 5]),
            Call::Write {
                fd: 3,
                data: UserData::One {
                    address: 0x1000,
                    len: 5
                },
                at: Some(4096),
                hint: Hint::of(5),
            }
        );
        assert_eq!(
            call(libc::SYS_pwritev2, [3, 0x1000, 2, u64::MAX, MAGIC, 5]),
            Call::Write {
                fd: 3,
                data: UserData::Vector {
                    address: 0x1000,
                    count: 2
                },
                at: None,
                hint: Hint::default(),
            }
        );
    }

    #[test]
    fn what_is_said_at_open_is_seen_and_no_other_open() {
        let said = [0, 0x1000, 2, 0o600, MAGIC, 0x15];
        let hint = Hint::of(0x15);
        let opened = call(libc::SYS_openat, said);
        assert_eq!(opened, Call::Open { path: 0x1000, hint });
        assert_eq!(opened.to_string(), "open class=5 no-dedup");
        assert_eq!(
            call(libc::SYS_open, [0x2000, 2, 0o600, 0, MAGIC, 0x15]),
            Call::Open { path: 0x2000, hint }
        );
        assert_eq!(
            call(libc::SYS_openat, [0, 0x1000, 2, 0o600, 0, 0x15]),
            Call::Other
        );
    }

    #[test]
    fn descriptors_that_become_another_are_forgotten() {
        let forget = |first, last| Call::Forget { first, last };
        assert_eq!(call(libc::SYS_close, [4, 9, 0, 0, 0, 0]), forget(4, 4));
        assert_eq!(call(libc::SYS_dup2, [4, 9, 0, 0, 0, 0]), forget(9, 9));
        let all = call(libc::SYS_close_range, [3, u64::from(u32::MAX), 0, 0, 0, 0]);
        assert_eq!(all, forget(3, u32::MAX));
    }

    #[test]
    fn a_descriptor_stands_where_it_was_told_to() {
        let seek = |to| Call::Seek { fd: 4, to };
        let moved = |whence| call(libc::SYS_lseek, [4, 100, whence, 0, 0, 0]);
        assert_eq!(moved(0), seek(Some(100)));
        assert_eq!(moved(1), seek(None));
        assert_eq!(moved(2), seek(None));
    }

    #[test]
    fn what_confines_or_traces_is_seen() {
        assert_eq!(call(libc::SYS_prctl, [22, 2, 0, 0, 0, 0]), Call::Confine);
        assert_eq!(call(libc::SYS_prctl, [59, 1, 0, 0, 0, 0]), Call::Confine);
        assert_eq!(call(libc::SYS_prctl, [59, 0, 0, 0, 0, 0]), Call::Other);
        assert_eq!(call(libc::SYS_prctl, [15, 2, 0, 0, 0, 0]), Call::Other);
        assert_eq!(call(libc::SYS_seccomp, [1, 0, 0, 0, 0, 0]), Call::Confine);
        assert_eq!(call(libc::SYS_seccomp, [2, 0, 0, 0, 0, 0]), Call::Other);
        let seized = call(libc::SYS_ptrace, [0x4206, 77, 0, 0, 0, 0]);
        assert_eq!(seized, Call::Trace { pid: Some(77) });
        assert_eq!(call(-1, [0; 6]), Call::Other);
    }

    #[test]
    fn every_call_that_is_hooked_is_understood() {
        let anything = [PR_SET_SECCOMP, 1, 1, 0, 1, 0];
        for number in ALWAYS.iter().chain(&WATCHED) {
            let arguments = match *number {
                libc::SYS_seccomp | libc::SYS_ptrace => [0; 6],
                libc::SYS_renameat2 => [1, 1, 1, 1, 0, 0],
                _ => anything,
            };
            let known = call(*number, arguments);
            assert!(known != Call::Other, "{number}");
        }
    }
}
