//! A debugger sees each call of its child, and none that the child did not make.
#![expect(
    unsafe_code,
    reason = "traces a process, and makes calls by their numbers"
)]

use std::fs::File;
use std::mem;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::calls::call;
use super::child;

/// How often the child makes all its calls.
const ROUNDS: usize = 20;
/// Statuses of the child.
const REFUSED: u8 = 101;
const WRONG: u8 = 102;

/// A call, and the result that it must have; nothing where that is not known before.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: i64,
    arguments: [u64; 6],
    result: Option<i64>,
}

/// What a debugger sees of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which call it is.
    pub number: u64,
    /// All six, also those that the call does not have.
    pub arguments: [u64; 6],
    /// Nothing before its end.
    pub result: Option<i64>,
}

/// The calls of a program, from its start to its end, which must be with status 0.
pub fn calls_of(command: &mut Command) -> Result<Vec<Seen>> {
    // SAFETY: the hook makes one system call and touches no memory of the parent.
    let command = unsafe { command.pre_exec(be_traced) };
    let started = command.spawn().context("start the program")?;
    let child = Pid::from_child(&started);
    trace(child).inspect_err(|_| {
        let _ = kill_process(child, Signal::KILL);
    })
}

/// Traces a child.
pub(super) fn run() -> Result<String> {
    let null = File::options().write(true).open("/dev/null");
    let (null, zero) = (null.context("/dev/null")?, File::open("/dev/zero")?);
    let exe = File::open("/proc/self/exe").context("/proc/self/exe")?;
    let mut buffer = vec![0_u64; 64];
    let calls = calls([&null, &zero, &exe], buffer.as_mut_ptr() as u64);
    let child = child::fork(|| make(&calls))?;
    let seen = trace(child).inspect_err(|_| {
        let _ = kill_process(child, Signal::KILL);
    })?;
    check(&calls, &seen)?;
    Ok(format!("traced calls={}", seen.len()))
}

/// The calls of the child, which all have a page of memory at `address`.
fn calls([null, zero, exe]: [&File; 3], address: u64) -> Vec<Call> {
    let fd = |file: &File| u64::from(file.as_raw_fd().unsigned_abs());
    let call = |number, arguments: [u64; 4], result| {
        let [a, b, c, d] = arguments;
        // What the kernel does not look at is known too.
        let arguments = [a, b, c, d, 0x1111_2222_3333_4444, 0x5555_6666_7777_8888];
        Call {
            number,
            arguments,
            result,
        }
    };
    let parent = i64::from(rustix::process::getpid().as_raw_nonzero().get());
    let round = [
        call(libc::SYS_getppid, [1, 2, 3, 4], Some(parent)),
        call(libc::SYS_write, [fd(null), address, 100, 7], Some(100)),
        call(libc::SYS_lseek, [fd(exe), 4097, 0, 7], Some(4097)),
        call(libc::SYS_read, [fd(zero), address, 200, 7], Some(200)),
        call(libc::SYS_fstat, [fd(exe), address, 7, 7], Some(0)),
        call(libc::SYS_getpid, [1, 2, 3, 4], None),
        call(libc::SYS_pread64, [fd(exe), address, 300, 5], Some(300)),
        call(libc::SYS_close, [u64::MAX >> 33, 0, 0, 0], Some(-9)),
    ];
    round
        .iter()
        .copied()
        .cycle()
        .take(ROUNDS * round.len())
        .collect()
}

/// The child: stops for its parent, then makes the calls.
fn make(calls: &[Call]) -> u8 {
    if be_traced().is_err() || kill_process(rustix::process::getpid(), Signal::STOP).is_err() {
        return REFUSED;
    }
    let all_right = calls.iter().all(|expected| {
        // SAFETY: all of them answer, or use the buffer that their addresses name.
        let result = unsafe { call(expected.number.cast_unsigned(), expected.arguments) };
        expected.result.is_none_or(|expected| expected == result)
    });
    if all_right { 0 } else { WRONG }
}

/// Has this process traced by its parent.
fn be_traced() -> std::io::Result<()> {
    // SAFETY: the parent is about to wait for what follows.
    match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Follows the child to its end. The call that ends it is the last one, without a result.
fn trace(child: Pid) -> Result<Vec<Seen>> {
    let stopped = child::wait(child)?;
    // The child stops by itself, or for having been executed.
    ensure!(
        matches!(
            stopped.stopping_signal(),
            Some(libc::SIGSTOP | libc::SIGTRAP)
        ),
        "the child cannot be traced: {stopped:?}"
    );
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    ask(
        libc::PTRACE_SETOPTIONS,
        child,
        0,
        options.unsigned_abs() as usize,
    )?;
    let mut seen: Vec<Seen> = Vec::new();
    loop {
        ask(libc::PTRACE_SYSCALL, child, 0, 0)?;
        let status = child::wait(child)?;
        if let Some(status) = status.exit_status() {
            ensure!(status == 0, "the child ended with status {status}");
            return Ok(seen);
        }
        ensure!(
            status.stopping_signal() == Some(libc::SIGTRAP | 0x80),
            "the child stopped for something else: {status:?}"
        );
        look(child, &mut seen)?;
    }
}

/// Adds what is known of the call at whose begin or end the child stands.
fn look(child: Pid, seen: &mut Vec<Seen>) -> Result<()> {
    // SAFETY: zeros are a structure of nothing known.
    let mut info: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
    let address = ptr::from_mut(&mut info) as usize;
    ask(
        libc::PTRACE_GET_SYSCALL_INFO,
        child,
        size_of::<libc::ptrace_syscall_info>(),
        address,
    )?;
    match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: at the begin of a call, this is what the kernel fills in.
            let entry = unsafe { info.u.entry };
            seen.push(Seen {
                number: entry.nr,
                arguments: entry.args,
                result: None,
            });
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: at the end of a call, this is what the kernel fills in.
            let exit = unsafe { info.u.exit };
            let last = seen
                .last_mut()
                .context("the end of a call that did not begin")?;
            last.result = Some(exit.sval);
        }
        operation => bail!("the child stands at operation {operation}"),
    }
    Ok(())
}

/// Asks the kernel for something about a child that stands still.
fn ask(request: libc::c_uint, child: Pid, address: usize, data: usize) -> Result<()> {
    // SAFETY: what `data` names is there for each request above.
    let result = unsafe { libc::ptrace(request, child.as_raw_nonzero().get(), address, data) };
    let error = std::io::Error::last_os_error();
    ensure!(result != -1, "ptrace {request:#x}: {error}");
    Ok(())
}

fn check(calls: &[Call], seen: &[Seen]) -> Result<()> {
    let Some((last, seen)) = seen.split_last() else {
        bail!("no call was seen")
    };
    for (at, (call, seen)) in calls.iter().zip(seen).enumerate() {
        let is_right = seen.number == call.number.cast_unsigned()
            && seen.arguments == call.arguments
            && (call.result.is_none() || seen.result == call.result);
        ensure!(
            is_right,
            "call {at} is foreign: {seen:x?} in place of {call:x?}"
        );
    }
    ensure!(
        seen.len() == calls.len() && last.number == libc::SYS_exit_group.cast_unsigned(),
        "{} calls were seen of {}, and then {last:x?}",
        seen.len(),
        calls.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_call_is_noticed() {
        let call = |number| Call {
            number,
            arguments: [1; 6],
            result: Some(5),
        };
        let seen = |number: i64| Seen {
            number: number.cast_unsigned(),
            arguments: [1; 6],
            result: Some(5),
        };
        let calls = [call(1), call(8)];
        let exit = Seen {
            result: None,
            ..seen(libc::SYS_exit_group)
        };
        check(&calls, &[seen(1), seen(8), exit]).unwrap();
        assert!(check(&calls, &[seen(1), seen(39), seen(8), exit]).is_err());
        assert!(check(&calls, &[seen(1), seen(8), seen(39), exit]).is_err());
        assert!(check(&calls, &[seen(1), exit]).is_err());
        let wrong = Seen {
            result: Some(6),
            ..seen(8)
        };
        assert!(check(&calls, &[seen(1), wrong, exit]).is_err());
    }
}
