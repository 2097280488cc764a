//! A slow link that an image is behind: nbdkit with filters, in the lab.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ::tests::Host;
use ::tests::lab::share::Share;
use ::tests::process::Process;
use anyhow::{Context as _, Result};
use images::packages::Tool;
use rustix::process::Signal;

/// What of nbdkit is wanted, by the name of its directory.
const PARTS: [(&str, &[&str]); 2] = [
    ("plugindir", &["nbdkit-file-plugin.so"]),
    (
        "filterdir",
        &[
            "nbdkit-delay-filter.so",
            "nbdkit-log-filter.so",
            "nbdkit-rate-filter.so",
        ],
    ),
];
/// How much may come at once after a pause, in seconds of the link's rate.
const BURST_S: f64 = 0.1;
/// How long it may take to end.
const PATIENCE: Duration = Duration::from_mins(1);

/// How slow it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) delay_ms: f64,
    pub(super) rate_bytes: f64,
}

/// Adds nbdkit to what the emulated host has.
pub(super) fn bring(share: &mut Share) -> Result<()> {
    let program = Tool::NbdKit.command();
    share.program(program)?;
    let output = Command::new(program).arg("--dump-config").output();
    let config = output.with_context(|| format!("{program}: run"))?.stdout;
    let config = String::from_utf8_lossy(&config).into_owned();
    for (name, files) in PARTS {
        let directory = config
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .with_context(|| format!("{program}: does not say its {name}"))?;
        for file in files {
            let path = Path::new(directory).join(file);
            share.file(&path, &path)?;
        }
    }
    Ok(())
}

/// A server of an image behind the link, which ends when it is dropped.
pub(super) struct Nbd {
    process: Process,
    directory: String,
}

impl Nbd {
    /// Starts one of the raw image or disk `base` of the host's.
    pub(super) fn start(host: &Host, base: &str, link: &Link) -> Result<Self> {
        let directory = host.fresh_path("nbd").display().to_string();
        host.run(&format!("mkdir {directory}"))?;
        let Link {
            delay_ms,
            rate_bytes,
        } = link;
        let command = format!(
            "nbdkit --foreground --readonly --unix {directory}/socket --pidfile {directory}/pid --filter=log \
             --filter=delay --filter=rate file {base} logfile={directory}/log rdelay={delay_ms:.0}ms rate={:.0} \
             burstiness={BURST_S}",
            rate_bytes * 8.0
        );
        let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
        let process = host.spawn(&words, None)?;
        // It writes this when it is ready.
        host.run(&format!("until [ -s {directory}/pid ]; do sleep 0.1; done"))?;
        Ok(Self { process, directory })
    }

    /// What images call it.
    pub(super) fn url(&self) -> String {
        format!("nbd+unix:///?socket={}/socket", self.directory)
    }

    /// What it was asked for so far.
    pub(super) fn reads(&self, host: &Host) -> Result<Reads> {
        let log = host.read(&format!("{}/log", self.directory))?;
        Ok(Reads::of(&String::from_utf8_lossy(&log)))
    }

    /// Ends it.
    pub(super) fn end(self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.output(PATIENCE).map(drop)
    }
}

/// What a server was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads {
    pub(super) requests: u64,
    pub(super) bytes: u64,
}

impl Reads {
    /// By lines like `2026-01-31 12:00:00.123456 connection=1 Read id=2 offset=0x0 count=0x1000 ...`;
    /// another line, with `...Read`, tells of the end of each.
    fn of(log: &str) -> Self {
        let mut reads = Self::default();
        let words = log.lines().filter_map(|line| line.split_once(" Read "));
        for (_, words) in words {
            let mut words = words.split_whitespace();
            let count = words.find_map(|word| word.strip_prefix("count=0x"));
            reads.requests += 1;
            reads.bytes += count
                .and_then(|count| u64::from_str_radix(count, 16).ok())
                .unwrap_or(0);
        }
        reads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nbdkit_is_understood() {
        let log = "2026-01-31 05:38:34.234590 connection=1 Extents id=1 offset=0x0 count=0x100000 req_one=1 ...\n\
                   2026-01-31 05:38:34.235453 connection=1 Read id=2 offset=0x0 count=0x100000 ...\n\
                   2026-01-31 05:38:34.235591 connection=1 ...Read id=2 return=0\n\
                   2026-01-31 05:38:34.236453 connection=1 Read id=3 offset=0x10000 count=0x1000 ...\n";
        let bytes = 0x10_1000;
        assert_eq!(Reads::of(log), Reads { requests: 2, bytes });
    }
}
