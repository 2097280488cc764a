//! The file system and the block device below a directory.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{major, minor};

/// What carries a directory.
#[derive(Debug)]
pub(super) struct Ground {
    /// The type of the file system.
    pub(super) file_system: String,
    /// Where the block device is in sysfs, if it is one.
    device: Option<PathBuf>,
}

/// What a block device has done since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceCounts {
    pub(super) flushes: u64,
    pub(super) written_bytes: u64,
}

impl Ground {
    /// Finds out what is below a directory.
    pub(super) fn below(directory: &Path) -> Result<Self> {
        let directory = directory
            .canonicalize()
            .with_context(|| format!("{}", directory.display()))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
        let (file_system, source) = mount_of(&mounts, &directory).context("no mount")?;
        let device = sysfs(directory.metadata()?.dev());
        // Some file systems have a device number of their own.
        let device = device.or_else(|| sysfs(fs::metadata(source).ok()?.rdev()));
        Ok(Self {
            file_system: file_system.to_owned(),
            device,
        })
    }

    /// Of the device, if there is one.
    pub(super) fn counts(&self) -> Option<DeviceCounts> {
        let device = self.device.as_ref()?;
        let mut counts = DeviceCounts::of(&fs::read_to_string(device.join("stat")).ok()?)?;
        if device.join("partition").exists() {
            // Flushes are of the whole device.
            let whole = fs::read_to_string(device.join("../stat")).ok()?;
            counts.flushes = DeviceCounts::of(&whole)?.flushes;
        }
        Some(counts)
    }
}

impl DeviceCounts {
    /// Takes them out of a line as `Documentation/block/stat.rst` of Linux describes it.
    fn of(stat: &str) -> Option<Self> {
        let numbers: Vec<u64> = stat
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        Some(Self {
            flushes: *numbers.get(15)?,
            written_bytes: numbers.get(6)? * 512,
        })
    }

    /// What was done between `before` and now.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            flushes: self.flushes.saturating_sub(before.flushes),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

fn sysfs(device: u64) -> Option<PathBuf> {
    let path = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    // A link is resolved, so that `..` is the device that a partition is of.
    fs::canonicalize(path).ok()
}

/// The type and the source of the mount that a directory lies in (`proc_pid_mountinfo(5)`).
fn mount_of<'a>(mounts: &'a str, directory: &Path) -> Option<(&'a str, &'a str)> {
    let mounts = mounts.lines().filter_map(|line| {
        let (place, mounted) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?;
        let mut mounted = mounted.split(' ');
        Some((point, (mounted.next()?, mounted.next()?)))
    });
    // Of mounts on one point, the last covers the others.
    mounts
        .filter(|(point, _)| directory.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, mounted)| mounted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_lies_in_the_innermost_mount() {
        let mounts = "1 0 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
                      2 1 0:33 / /home/a rw - xfs /dev/loop0 rw\n\
                      3 2 0:34 / /home/a rw - btrfs /dev/loop1 rw\n";
        let mount_of = |directory| mount_of(mounts, Path::new(directory)).unwrap();
        assert_eq!(mount_of("/home/a/b"), ("btrfs", "/dev/loop1"));
        assert_eq!(mount_of("/home/ab"), ("ext4", "/dev/vda"));
    }

    #[test]
    fn a_devices_counts_are_told_apart() {
        let stat = "1 2 3 4 5 6 8 8 9 10 11 12 13 14 15 42 79\n";
        let counts = DeviceCounts::of(stat).unwrap();
        assert_eq!((counts.flushes, counts.written_bytes), (42, 4096));
        assert_eq!(DeviceCounts::of("1 2 3"), None);
    }
}
