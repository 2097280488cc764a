//! Restores the terminal when a signal that cannot be survived ends the program.
#![expect(unsafe_code, reason = "signal handlers and their global state are C's")]

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// The signals a fault or an abort raises.
const FATAL: [libc::c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGILL,
    libc::SIGFPE,
];

/// What the handler needs, written once before the handler is installed.
struct Saved {
    ready: AtomicBool,
    settings: UnsafeCell<MaybeUninit<libc::termios>>,
    actions: UnsafeCell<[MaybeUninit<libc::sigaction>; FATAL.len()]>,
}

// SAFETY: the cells are written by one thread before `ready` is set and only read after it.
unsafe impl Sync for Saved {}

static SAVED: Saved = Saved {
    ready: AtomicBool::new(false),
    settings: UnsafeCell::new(MaybeUninit::uninit()),
    actions: UnsafeCell::new([MaybeUninit::uninit(); FATAL.len()]),
};

/// Remembers the terminal's settings, which must not be raw yet, and restores them on a fatal
/// signal. Later calls change nothing.
pub(super) fn restore_on_fatal_signal() {
    static CALLED: AtomicBool = AtomicBool::new(false);
    if CALLED.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: this is the only thread that comes here, and nobody reads before `ready`.
    let got = unsafe { libc::tcgetattr(libc::STDIN_FILENO, SAVED.settings.get().cast()) };
    if got != 0 {
        return;
    }
    for (index, &signal) in FATAL.iter().enumerate() {
        let old = SAVED
            .actions
            .get()
            .cast::<libc::sigaction>()
            .wrapping_add(index);
        // SAFETY: `old` points to an element of the static array; a null new action only reads.
        unsafe { libc::sigaction(signal, ptr::null(), old) };
    }
    SAVED.ready.store(true, Ordering::Release);
    for signal in FATAL {
        // SAFETY: a zeroed sigaction is valid; the fields that matter are set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_fatal_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler calls only what is async-signal-safe.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

/// Restores the terminal and lets the signal strike again.
extern "C" fn on_fatal_signal(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    if !SAVED.ready.load(Ordering::Acquire) {
        return;
    }
    // SAFETY: `ready` says that the settings were stored; tcsetattr is async-signal-safe.
    unsafe {
        libc::tcsetattr(
            libc::STDIN_FILENO,
            libc::TCSANOW,
            SAVED.settings.get().cast(),
        )
    };
    // A fault strikes again when its instruction is executed again, and then meets the earlier
    // handler, which knows stack overflows. A signal that was sent (code 0 or less) does not, so it
    // is sent again, to end the program.
    // SAFETY: the kernel passes a valid siginfo to SA_SIGINFO handlers.
    if unsafe { (*info).si_code } <= 0 {
        // SAFETY: signal is async-signal-safe, and the default action is always valid.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: raise has no preconditions.
        unsafe { libc::raise(signal) };
        return;
    }
    let index = FATAL.iter().position(|&fatal| fatal == signal).unwrap_or(0);
    let old = SAVED
        .actions
        .get()
        .cast::<libc::sigaction>()
        .wrapping_add(index);
    // SAFETY: `ready` says that the element was stored; sigaction is async-signal-safe.
    unsafe { libc::sigaction(signal, old, ptr::null_mut()) };
}
