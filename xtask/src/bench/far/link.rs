//! The base, and the link that it is behind: nbdkit with filters.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
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
            "nbdkit-rate-filter.so",
            "nbdkit-stats-filter.so",
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

/// The base, as a file of the host's.
pub(super) fn base(host: &Host) -> String {
    let disk = &host.parts().extra().debian.disk;
    host.path(disk).display().to_string()
}

/// Says how large the base is.
pub(super) fn base_size(host: &Host) -> Result<String> {
    let disk = &host.parts().extra().debian.disk;
    let metadata = fs::metadata(disk).with_context(|| format!("{}: look", disk.display()))?;
    let (mib, data_mib) = (metadata.len() >> 20, (metadata.blocks() * 512) >> 20);
    Ok(format!(
        "\nThe base has {mib} MiB, {data_mib} of them data.\n"
    ))
}

/// A server of the base behind the link, which ends when it is dropped.
pub(super) struct Nbd {
    process: Process,
    directory: String,
}

impl Nbd {
    /// Starts it.
    pub(super) fn start(host: &Host, link: &Link) -> Result<Self> {
        let directory = host.fresh_path("nbd").display().to_string();
        host.run(&format!("mkdir {directory}"))?;
        let Link {
            delay_ms,
            rate_bytes,
        } = link;
        let command = format!(
            "nbdkit --foreground --readonly --unix {directory}/socket --pidfile {directory}/pid --filter=stats \
             --filter=delay --filter=rate file {} statsfile={directory}/stats rdelay={delay_ms:.0}ms rate={:.0} \
             burstiness={BURST_S}",
            base(host),
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

    /// Ends it, and says how many MiB it was asked for.
    pub(super) fn end(self, host: &Host) -> Result<f64> {
        self.process.signal(Signal::TERM)?;
        let output = self.process.output(PATIENCE)?;
        let stats = host.run(&format!("cat {}/stats", self.directory));
        let stats = stats.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        read_mib(&stats).with_context(|| format!("nbdkit: says nothing of reads: {stats}"))
    }
}

/// How much was read, in MiB, says a line like `read: 9 ops, 0.5 s, 20.00 MiB, 2.17 GiB/s op, ...`.
fn read_mib(stats: &str) -> Option<f64> {
    let line = stats.lines().find_map(|line| line.strip_prefix("read:"))?;
    let (number, unit) = line.split(", ").nth(2)?.split_once(' ')?;
    let number: f64 = number.parse().ok()?;
    let mib = match unit {
        "bytes" => 1.0 / f64::from(1 << 20),
        "KiB" => 1.0 / 1024.0,
        "MiB" => 1.0,
        "GiB" => 1024.0,
        _ => return None,
    };
    Some(number * mib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nbdkit_is_understood() {
        let stats = "total: 3 ops, 0.02 s, 1.00 MiB, 18.16 KiB/s\nread: 2 ops, 0.01 s, 512.00 KiB, 97.62 KiB/s op\n";
        assert_eq!(read_mib(stats), Some(0.5));
        assert_eq!(read_mib("read: 2 ops, 0.01 s, 5 apples, 1 B/s op"), None);
        assert_eq!(read_mib("total: 0 ops\n"), None);
    }
}
