//! Measures the start of a guest from inside the host that runs it: `lab-agent measure`.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// Mappings of at least this size are the guest's memory, not the VMM's own.
const GUEST_MAPPING_KIB_MIN: u64 = 100 << 10;
const KVM_STATISTICS: &str = "/sys/kernel/debug/kvm";

/// What a guest's start cost, up to the line that was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// From the start of the process, by the host's clock.
    pub ms: f64,
    /// Times that the guest left guest mode.
    pub exits: u64,
    /// Faults in the nested page table.
    pub npt_faults: u64,
    /// Memory that the VMM has written and shares with nobody, without the guest's.
    pub private_kib: u64,
}

/// Starts the VMM and waits for `mark` in what it prints, then takes the counts and kills it. It
/// must be the only one on its host: KVM adds all guests up.
pub fn measure(mark: &str, argv: &[String]) -> Result<Start> {
    let [program, arguments @ ..] = argv else {
        bail!("no command to measure")
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("{program}: start"))?;
    let found = wait_for(&mut child, mark);
    let elapsed = started.elapsed();
    let counted = found.and_then(|()| {
        Ok(Start {
            ms: elapsed.as_secs_f64() * 1e3,
            exits: statistic("exits")?,
            npt_faults: statistic("pf_taken")?,
            private_kib: private_kib(child.id())?,
        })
    });
    let _ = child.kill();
    let ended = child.wait_with_output().context("wait")?;
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    counted.with_context(|| format!("{}: {said}", argv.join(" ")))
}

fn wait_for(child: &mut Child, mark: &str) -> Result<()> {
    let stdout = child.stdout.as_mut().context("no standard output")?;
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stdout.read(&mut buffer).context("read")?;
        if length == 0 {
            bail!(
                "ended without {mark:?} after\n{}",
                String::from_utf8_lossy(&seen)
            );
        }
        seen.extend_from_slice(&buffer[..length]);
        if seen
            .windows(mark.len())
            .any(|window| window == mark.as_bytes())
        {
            return Ok(());
        }
    }
}

fn statistic(name: &str) -> Result<u64> {
    let path = format!("{KVM_STATISTICS}/{name}");
    let text = fs::read_to_string(&path).with_context(|| format!("{path}: read"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{path}: parse"))
}

fn private_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let maps = fs::read_to_string(&path).with_context(|| format!("{path}: read"))?;
    Ok(private_kib_of(&maps))
}

/// Adds up `Private_Dirty` of the mappings that are the program's own.
fn private_kib_of(smaps: &str) -> u64 {
    let (mut size, mut sum) = (0, 0);
    for line in smaps.lines() {
        let value = |name| -> Option<u64> {
            line.strip_prefix(name)?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        };
        if let Some(kib) = value("Size:") {
            size = kib;
        } else if let Some(kib) = value("Private_Dirty:").filter(|_| size < GUEST_MAPPING_KIB_MIN) {
            sum += kib;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_not_the_programs() {
        let smaps = "1000-2000 rw-p\nSize:   4 kB\nRss:  4 kB\nPrivate_Dirty:   4 kB\n\
                     2000-9000 rw-p\nSize: 524288 kB\nPrivate_Dirty: 4096 kB\n\
                     9000-a000 r--p\nSize: 64 kB\nPrivate_Clean: 64 kB\nPrivate_Dirty: 8 kB\n";
        assert_eq!(private_kib_of(smaps), 12);
    }
}
