//! The clock of the emulated KVM host.
//!
//! Left alone, its kernel measures the frequency of the time-stamp counter against an emulated
//! timer, which fails on a loaded machine; the kernel then hangs. So it is told the frequency.
#![expect(unsafe_code, reason = "reading the time-stamp counter is an intrinsic")]

use std::thread;
use std::time::{Duration, Instant};

/// What the emulated host's time follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The machine's own time.
    RealTime,
    /// Emulated instructions, one a nanosecond: the same run takes the same time, whatever else
    /// the machine does. One processor, and guests cannot use their disks.
    Instructions,
}

impl Clock {
    /// The frequency of the emulated time-stamp counter, in kHz.
    pub fn tsc_khz(self) -> u64 {
        match self {
            // QEMU's TCG hands the machine's own counter to the guest.
            Self::RealTime => measure_tsc_khz(),
            Self::Instructions => 1_000_000,
        }
    }
}

fn measure_tsc_khz() -> u64 {
    let (start, first) = (Instant::now(), tsc());
    thread::sleep(Duration::from_millis(40));
    let (elapsed, ticks) = (start.elapsed(), tsc() - first);
    u64::try_from(u128::from(ticks) * 1_000_000 / elapsed.as_nanos()).unwrap_or(u64::MAX)
}

fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}
