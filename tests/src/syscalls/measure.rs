//! What a system call costs.

use std::fs::File;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{SeekFrom, seek};
use rustix::io::{read, write};
use rustix::process::getppid;

/// Makes `count` calls of one kind.
pub(super) fn run(call: &str, count: u64) -> Result<String> {
    ensure!(count > 0, "no calls are to be made");
    let ns = match call {
        "getppid" => {
            let parent = getppid();
            timed(count, || getppid() == parent)
        }
        "write" => {
            let null = File::options().write(true).open("/dev/null");
            let null = null.context("/dev/null")?;
            timed(count, || write(&null, b"x") == Ok(1))
        }
        "read" => {
            let zero = File::open("/dev/zero").context("/dev/zero")?;
            let mut byte = [0xff];
            timed(count, || read(&zero, &mut byte) == Ok(1) && byte == [0])
        }
        "lseek" => {
            let file = File::open("/proc/self/exe").context("/proc/self/exe")?;
            timed(count, || seek(&file, SeekFrom::Start(7)) == Ok(7))
        }
        _ => bail!("{call}: not one of getppid, write, read, lseek"),
    };
    let ns = ns.with_context(|| format!("{call}: a call had a wrong result"))?;
    let ns_per_call = ns / u128::from(count);
    Ok(format!(
        "loop call={call} count={count} ns={ns} ns_per_call={ns_per_call}"
    ))
}

/// How many nanoseconds `count` calls take; nothing when one is not right.
fn timed(count: u64, mut is_right: impl FnMut() -> bool) -> Option<u128> {
    let start = Instant::now();
    let all_right = (0..count).all(|_| is_right());
    all_right.then(|| start.elapsed().as_nanos())
}
