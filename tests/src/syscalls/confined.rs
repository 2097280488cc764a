//! Processes that are killed for the wrong system call, so none must be made for them.
#![expect(unsafe_code, reason = "confines processes, and handles a signal")]

use std::fs::File;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use rustix::io::{read, write};

use super::calls::call;
use super::child;

/// How many calls of each kind a confined process makes.
const CALLS: u32 = 100;
/// How many signals the filtered process handles, and after how many writes it gives them up.
const SIGNALS: u32 = 3;
const WRITES_MAX: u32 = 50_000_000;

/// Statuses of children: what the kernel refused, and what had a wrong result.
const REFUSED: u8 = 101;
const WRONG: u8 = 102;

/// A child in strict mode, which may read, write and exit, is not killed.
pub(super) fn strict() -> Result<String> {
    let (null, zero) = files()?;
    let child = child::fork(|| {
        // SAFETY: the process gives up calls that it does not make any more.
        let entered = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
        if entered != 0 {
            return REFUSED;
        }
        let status = if calls_are_right(&null, &zero) {
            0
        } else {
            WRONG
        };
        // The other call that ends a process is refused.
        // SAFETY: nothing runs after it.
        unsafe {
            call(
                libc::SYS_exit.cast_unsigned(),
                [status.into(), 0, 0, 0, 0, 0],
            )
        };
        WRONG
    })?;
    child::expect(child, 0)?;
    Ok(format!("seccomp calls={}", 2 * CALLS))
}

/// A child behind a filter that kills it for all but five calls is not killed, signals included.
pub(super) fn filtered() -> Result<String> {
    let (null, zero) = files()?;
    NULL.store(null.as_raw_fd(), Ordering::Relaxed);
    let child = child::fork(|| {
        if !(handle_signals() && enter_filter()) {
            return REFUSED;
        }
        let mut right = calls_are_right(&null, &zero);
        let mut writes = 0;
        while right && HANDLED.load(Ordering::Relaxed) < SIGNALS && writes < WRITES_MAX {
            right = write(&null, b"until signals came") == Ok(18);
            writes += 1;
        }
        let all_came = HANDLED.load(Ordering::Relaxed) >= SIGNALS;
        if right && all_came { 0 } else { WRONG }
    })?;
    child::expect(child, 0)?;
    Ok(format!(
        "seccomp-filter calls={} signals={SIGNALS}",
        2 * CALLS
    ))
}

fn files() -> Result<(File, File)> {
    let null = File::options().write(true).open("/dev/null");
    let zero = File::open("/dev/zero").context("/dev/zero")?;
    Ok((null.context("/dev/null")?, zero))
}

fn calls_are_right(null: &File, zero: &File) -> bool {
    (0..CALLS).all(|_| {
        let mut bytes = [0xff; 64];
        write(null, b"confined") == Ok(8) && read(zero, &mut bytes) == Ok(64) && bytes == [0; 64]
    })
}

static NULL: AtomicI32 = AtomicI32::new(-1);
static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn handle(_: i32) {
    // SAFETY: the descriptor is open as long as the process lives.
    let null = unsafe { BorrowedFd::borrow_raw(NULL.load(Ordering::Relaxed)) };
    if write(null, b"s") == Ok(1) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Has this process get and handle signals, every 700 µs.
fn handle_signals() -> bool {
    // SAFETY: zeros are no handler, no flags and an empty set.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler makes a system call and counts.
    let handled = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) };
    let period = libc::timeval {
        tv_sec: 0,
        tv_usec: 700,
    };
    let timer = libc::itimerval {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: the times are there.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
    handled == 0 && set == 0
}

/// The calls that the filter lets through.
const ALLOWED: [i64; 5] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
];
/// `AUDIT_ARCH_X86_64`, which libc does not have.
const ARCHITECTURE: u32 = 0xc000_003e;

/// Has this process killed for any call that is not [`ALLOWED`].
fn enter_filter() -> bool {
    let program = filter();
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: gives up privileges, and nothing else.
    let no_new = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the kernel copies the program, which is there.
    let entered = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    no_new == 0 && entered == 0
}

/// A program for the kernel's packet filter: the architecture, then the number of the call.
fn filter() -> [libc::sock_filter; 10] {
    const NUMBER_OFFSET: u32 = 0;
    const ARCHITECTURE_OFFSET: u32 = 4;
    let load = |offset| (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    // Jumps over so many instructions if it is equal, or if it is not.
    let equal = |value, yes, no| (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value);
    let end = |with| (libc::BPF_RET | libc::BPF_K, 0, 0, with);
    let number = |at: usize| u32::try_from(ALLOWED[at]).unwrap_or(u32::MAX);
    [
        load(ARCHITECTURE_OFFSET),
        equal(ARCHITECTURE, 0, 6),
        load(NUMBER_OFFSET),
        equal(number(0), 5, 0),
        equal(number(1), 4, 0),
        equal(number(2), 3, 0),
        equal(number(3), 2, 0),
        equal(number(4), 1, 0),
        end(libc::SECCOMP_RET_KILL_PROCESS),
        end(libc::SECCOMP_RET_ALLOW),
    ]
    .map(|(code, jt, jf, k)| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    })
}
