//! Waiting for time to pass, in the reactor.
#![expect(unsafe_code, reason = "std has no timerfd")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::executor::Core;
use crate::reactor::{Operation, submit};
use crate::{Error, readable};

/// Waits that long; in a simulation, by its virtual clock.
pub(crate) async fn sleep(duration: Duration) -> Result<(), Error> {
    let passed = pass(duration).await;
    passed.map_err(Error::setup("a timer"))
}

async fn pass(duration: Duration) -> io::Result<()> {
    if Core::current().reactor.virtual_now_ns().is_some() {
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        return submit(Operation::Delay { duration_ns }).await.map(drop);
    }
    readable(Arc::new(timer(duration)?)).await
}

/// A descriptor that is readable after that time.
fn timer(duration: Duration) -> io::Result<OwnedFd> {
    let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let timer = unsafe { OwnedFd::from_raw_fd(fd) };
    let zero = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let once = libc::itimerspec {
        it_interval: zero,
        it_value: libc::timespec {
            tv_sec: libc::time_t::try_from(duration.as_secs()).map_err(io::Error::other)?,
            tv_nsec: duration.subsec_nanos().into(),
        },
    };
    // SAFETY: reads one structure, and writes none.
    let set = unsafe {
        libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const once, std::ptr::null_mut())
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::real_backends;
    use crate::{Backend, Executor};

    #[test]
    fn time_passes_on_every_backend() {
        let simulated = Backend::Simulated { seed: 1 };
        for backend in real_backends().into_iter().chain([simulated]) {
            let executor = Executor::with_backend(backend).unwrap();
            executor.run(sleep(Duration::from_millis(2))).unwrap();
            let passed_ns = executor.virtual_now_ns();
            assert!(passed_ns.is_none_or(|passed_ns| passed_ns >= 2_000_000));
        }
    }
}
