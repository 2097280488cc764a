//! Signals that come at any moment, and handlers that make system calls of their own.
#![expect(unsafe_code, reason = "handles signals, and has timers send them")]

use std::fs::File;
use std::io::Error;
use std::mem;
use std::os::fd::{BorrowedFd, IntoRawFd as _};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use rustix::io::write;

use super::count;

/// How often every timer fires, in nanoseconds: often enough to hit most calls that wait.
const PERIOD_NS: i64 = 700_000;

/// Comes to any thread of the process. Calls that it interrupts begin again.
pub(super) const ANYWHERE: i32 = libc::SIGALRM;
/// Comes to the thread of a [`ThreadTimer`] and is handled on its alternate stack. Calls that it
/// interrupts begin again.
pub(super) const ELSEWHERE: i32 = libc::SIGUSR1;
/// Comes to the thread of a [`ThreadTimer`]. Calls that it interrupts fail with EINTR.
pub(super) const INTERRUPTING: i32 = libc::SIGUSR2;

/// Where handlers write to.
static NULL: AtomicI32 = AtomicI32::new(-1);
/// The process that they must find themselves in.
static PROCESS: AtomicI32 = AtomicI32::new(0);
static HANDLED: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

/// Makes a call that writes and one that answers, and notes whether both were right. Changes no
/// `errno`: these calls do not go through the C library.
extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the descriptor was opened before the handler was installed, and is never closed.
    let null = unsafe { BorrowedFd::borrow_raw(NULL.load(Ordering::Relaxed)) };
    let process = rustix::process::getpid().as_raw_nonzero().get();
    let is_right = write(null, b"s") == Ok(1) && process == PROCESS.load(Ordering::Relaxed);
    count(if is_right { &HANDLED } else { &WRONG });
    if signal != ANYWHERE {
        // SAFETY: the kernel gives a handler with SA_SIGINFO what it knows of the signal.
        let info = unsafe { &*info };
        // SAFETY: signals of timers have a value.
        let value = unsafe { info.si_value() };
        // SAFETY: only timers send these signals, with the counter that they were made with.
        count(unsafe { &*value.sival_ptr.cast::<AtomicU64>() });
    }
}

/// Installs the handlers, and has the process get signals until this is dropped.
pub(super) fn start() -> Result<ProcessTimer> {
    let null = File::options().write(true).open("/dev/null");
    NULL.store(null.context("/dev/null")?.into_raw_fd(), Ordering::Relaxed);
    let process = rustix::process::getpid().as_raw_nonzero().get();
    PROCESS.store(process, Ordering::Relaxed);
    install(ANYWHERE, libc::SA_RESTART)?;
    install(ELSEWHERE, libc::SA_RESTART | libc::SA_ONSTACK)?;
    install(INTERRUPTING, 0)?;
    ProcessTimer::set(PERIOD_NS / 1000)?;
    Ok(ProcessTimer)
}

/// How many signals were handled.
pub(super) fn handled() -> Result<u64> {
    let wrong = WRONG.load(Ordering::Relaxed);
    ensure!(wrong == 0, "{wrong} calls of handlers had wrong results");
    Ok(HANDLED.load(Ordering::Relaxed))
}

fn install(signal: i32, flags: i32) -> Result<()> {
    // SAFETY: zeros are no handler, no flags and an empty set.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    // SAFETY: the handler makes system calls and counts, and nothing else.
    let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    ensure!(result == 0, "sigaction: {}", Error::last_os_error());
    Ok(())
}

/// Keeps [`ANYWHERE`] from this thread.
pub(super) fn block() -> Result<()> {
    // SAFETY: zeros are an empty set.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: the set is there.
    unsafe { libc::sigaddset(&raw mut set, ANYWHERE) };
    // SAFETY: the set is there; a thread that gets fewer signals harms nobody.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    ensure!(result == 0, "pthread_sigmask: {result}");
    Ok(())
}

/// Sends [`ANYWHERE`] until it is dropped.
#[derive(Debug)]
pub(super) struct ProcessTimer;

impl ProcessTimer {
    /// Has it fire after so long, again and again; never after 0.
    fn set(period_us: i64) -> Result<()> {
        let period = libc::timeval {
            tv_sec: 0,
            tv_usec: period_us,
        };
        let timer = libc::itimerval {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: the times are there.
        let result =
            unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
        ensure!(result == 0, "setitimer: {}", Error::last_os_error());
        Ok(())
    }
}

impl Drop for ProcessTimer {
    fn drop(&mut self) {
        let _ = Self::set(0);
    }
}

/// Sends signals to the thread that made it, until it is dropped.
#[derive(Debug)]
pub(super) struct ThreadTimer {
    timer: libc::timer_t,
    /// How many of them were handled. One may be on its way when the timer is gone, so the counter
    /// stays for ever.
    pub(super) count: &'static AtomicU64,
}

impl ThreadTimer {
    /// Sends `signal`, which is not [`ANYWHERE`].
    pub(super) fn start(signal: i32) -> Result<Self> {
        let count: &AtomicU64 = Box::leak(Box::default());
        // SAFETY: zeros are an event without any of its parts.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_value.sival_ptr = ptr::from_ref(count).cast_mut().cast();
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer = ptr::null_mut();
        // SAFETY: the event and the place of the answer are there.
        let result =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        ensure!(result == 0, "timer_create: {}", Error::last_os_error());
        let started = Self { timer, count };
        let period = libc::timespec {
            tv_sec: 0,
            tv_nsec: PERIOD_NS,
        };
        let periodic = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: the timer was made above; the times are there.
        let result = unsafe { libc::timer_settime(timer, 0, &raw const periodic, ptr::null_mut()) };
        ensure!(result == 0, "timer_settime: {}", Error::last_os_error());
        Ok(started)
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY: it was made by this thread, and is deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}

/// The alternate stack of this thread, until it is dropped.
#[derive(Debug)]
pub(super) struct AlternateStack {
    before: libc::stack_t,
    _memory: Vec<u8>,
}

impl AlternateStack {
    const BYTES: usize = 64 << 10;

    pub(super) fn set() -> Result<Self> {
        let mut memory = vec![0; Self::BYTES];
        let stack = libc::stack_t {
            ss_sp: memory.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: Self::BYTES,
        };
        // SAFETY: zeros are a stack that is not there.
        let mut before: libc::stack_t = unsafe { mem::zeroed() };
        // SAFETY: the memory is kept until the stack is another.
        let result = unsafe { libc::sigaltstack(&raw const stack, &raw mut before) };
        ensure!(result == 0, "sigaltstack: {}", Error::last_os_error());
        Ok(Self {
            before,
            _memory: memory,
        })
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // SAFETY: what was there before is still there: the standard library keeps it with the thread.
        unsafe { libc::sigaltstack(&raw const self.before, ptr::null_mut()) };
    }
}
