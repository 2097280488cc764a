//! Child processes that make system calls, and their ends.
#![expect(unsafe_code, reason = "forks")]

use anyhow::{Context as _, Result, bail};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

/// Runs `body` in a child process that ends with the status it returns.
///
/// Other threads of this process may hold locks for ever in the child: `body` makes system calls,
/// and takes no lock.
pub(super) fn fork(body: impl FnOnce() -> u8) -> Result<Pid> {
    // SAFETY: the child never returns from here, and has copies of all that `body` uses.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        exit(body());
    }
    Pid::from_raw(pid)
        .filter(|_| pid > 0)
        .with_context(|| format!("fork: {}", std::io::Error::last_os_error()))
}

/// Ends this process at once.
pub(super) fn exit(status: u8) -> ! {
    // SAFETY: nothing runs after it.
    unsafe { libc::_exit(status.into()) }
}

/// Waits until a child stops or ends.
pub(super) fn wait(child: Pid) -> Result<WaitStatus> {
    let waited = retry_on_intr(|| waitpid(Some(child), WaitOptions::UNTRACED));
    let (_, status) = waited.context("waitpid")?.context("waitpid: nothing")?;
    Ok(status)
}

/// Waits for the end of a child, which must be with status `expected`.
pub(super) fn expect(child: Pid, expected: i32) -> Result<()> {
    let status = wait(child)?;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) if status == expected => Ok(()),
        (Some(status), _) => bail!("the child ended with status {status}, not {expected}"),
        (_, Some(signal)) => bail!("the child was killed by signal {signal}"),
        _ => bail!("the child stopped: {status:?}"),
    }
}
