//! Children that write: with memory of their own, or with their parent's until they execute.
#![expect(unsafe_code, reason = "makes a child that shares memory")]

use std::ffi::{CString, c_void};
use std::fs::File;
use std::io::Error;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::{pread, pwrite, write};
use rustix::process::{Pid, getpid, getppid};

use super::{Worker, count};
use crate::syscalls::child;

const CHILD_WRITES: usize = 5;
/// Statuses of children that found something wrong.
const WRONG_PROCESS: u8 = 101;
const WRONG_FILE: u8 = 102;
const WRONG_WRITE: u8 = 103;
/// What the executed program ends with.
const EXECUTED: u8 = 42;

/// Children with memory of their own, which share the descriptor's offset.
pub(super) fn forks(worker: &mut Worker<'_>) -> Result<()> {
    let (file, process) = (worker.file("fork")?, getpid());
    let inode = fstat(&file)?.st_ino;
    for round in 0..worker.rare_rounds() {
        let bytes = round.to_le_bytes();
        let body = || match () {
            () if getppid() != Some(process) || getpid() == process => WRONG_PROCESS,
            () if !fstat(&file).is_ok_and(|status| status.st_ino == inode) => WRONG_FILE,
            () if (0..CHILD_WRITES).any(|_| write(&file, &bytes) != Ok(8)) => WRONG_WRITE,
            () => 0,
        };
        let child = child::fork(body)?;
        child::expect(child, 0).with_context(|| format!("round {round}"))?;
        count(&worker.counts.forks);
        let mut found = [0; CHILD_WRITES * 8];
        let end = seek(&file, SeekFrom::Current(0))?;
        let start = end.checked_sub(found.len() as u64);
        let start = start.with_context(|| format!("round {round}: the end is at {end}"))?;
        let count_read = pread(&file, &mut found, start)?;
        ensure!(
            count_read == found.len() && found.chunks(8).all(|chunk| chunk == bytes),
            "round {round}: the child wrote something else"
        );
    }
    Ok(())
}

/// What a child needs that shares its parent's memory.
struct Plan {
    /// The parent's file.
    file: RawFd,
    /// What takes its number in the child.
    other: RawFd,
    program: CString,
    words: [CString; 2],
}

/// Children that share memory until they execute, and give a number of their parent's descriptors to
/// another file before that.
pub(super) fn execs(worker: &mut Worker<'_>) -> Result<()> {
    let (file, other) = (worker.file("exec")?, worker.file("exec-child")?);
    let program = std::env::current_exe().context("/proc/self/exe")?;
    let plan = Plan {
        file: file.as_raw_fd(),
        other: other.as_raw_fd(),
        program: CString::new(program.into_os_string().into_vec())?,
        words: [CString::new("exit")?, CString::new(EXECUTED.to_string())?],
    };
    for round in 0..worker.rare_rounds() {
        let problem = || format!("round {round}");
        child::expect(vfork(&plan)?, EXECUTED.into()).with_context(problem)?;
        count(&worker.counts.execs);
        let bytes = round.to_le_bytes();
        ensure!(pwrite(&file, &bytes, 0) == Ok(8), "round {round}: write");
        expect_start(&file, bytes).with_context(problem)?;
        expect_start(&other, *b"of child").with_context(problem)?;
    }
    Ok(())
}

fn expect_start(file: &File, bytes: [u8; 8]) -> Result<()> {
    let mut found = [0; 8];
    ensure!(pread(file, &mut found, 0) == Ok(8), "nothing to read");
    ensure!(found == bytes, "{found:?} instead of {bytes:?}");
    Ok(())
}

/// A child as `vfork` makes it, on a stack of its own: this thread waits until it executes.
fn vfork(plan: &Plan) -> Result<Pid> {
    const STACK_BYTES: usize = 64 << 10;
    let mut stack = vec![0_u128; STACK_BYTES / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let plan = ptr::from_ref(plan).cast_mut().cast();
    // SAFETY: the stack and the plan are there until the child has executed or ended, for that is
    // when this thread goes on. The child makes system calls and allocates nothing.
    let pid = unsafe { libc::clone(execute, top.cast(), flags, plan) };
    Pid::from_raw(pid)
        .filter(|_| pid > 0)
        .with_context(|| format!("clone: {}", Error::last_os_error()))
}

/// The child.
extern "C" fn execute(plan: *mut c_void) -> i32 {
    const TEXT: &[u8; 8] = b"of child";
    // SAFETY: the parent waits, and changes nothing.
    let plan = unsafe { &*plan.cast::<Plan>() };
    // SAFETY: the child has its own table of descriptors.
    let moved = unsafe { libc::dup2(plan.other, plan.file) };
    // SAFETY: the text is there. The number is the other file's by now.
    let written = unsafe { libc::pwrite(plan.file, TEXT.as_ptr().cast(), TEXT.len(), 0) };
    if moved != plan.file || written != 8 {
        child::exit(WRONG_WRITE);
    }
    let [first, second] = &plan.words;
    // The first word is the program's name.
    let words = [first.as_ptr(), first.as_ptr(), second.as_ptr(), ptr::null()];
    let no_variables = [ptr::null()];
    // SAFETY: all words and both ends are there.
    unsafe { libc::execve(plan.program.as_ptr(), words.as_ptr(), no_variables.as_ptr()) };
    child::exit(127)
}
