//! What the file system under an image can do.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use disk::probe::{FileSystemReport, file_system};
use rustix::fs::statfs;

use super::Finding;

/// The file systems that images usually lie on, by their magic numbers (statfs(2)).
const FILE_SYSTEMS: [(u64, &str); 8] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlayfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0x6969, "nfs"),
];

/// Above this a guest that syncs often is slow.
const FDATASYNC_SLOW_MS: u128 = 10;

pub(super) fn examine(image: &Path) -> Vec<Finding> {
    let name = image.display().to_string();
    if fs::metadata(image).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        return vec![Finding::good(
            name,
            "a block device, no file system in between",
        )];
    }
    match file_system(image) {
        Ok(report) => findings(&file_system_name(image), &report),
        Err(error) => vec![Finding::fair(
            name,
            error.to_string(),
            "name an image in a directory that you may write to",
        )],
    }
}

/// The type of the file system that holds `image`, which need not exist.
fn file_system_name(image: &Path) -> String {
    let parent = image
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let found = statfs(image).or_else(|_| statfs(parent.unwrap_or(Path::new("."))));
    let magic = found.map_or(0, |found| found.f_type.cast_unsigned());
    let known = FILE_SYSTEMS.iter().find(|(number, _)| *number == magic);
    known.map_or_else(
        || format!("file system {magic:#x}"),
        |(_, name)| (*name).to_owned(),
    )
}

fn findings(name: &str, report: &FileSystemReport) -> Vec<Finding> {
    let ability = |has: bool, what: &str, lost: &str| {
        let subject = format!("{name}, {what}");
        if has {
            Finding::good(subject, "works")
        } else {
            Finding::fair(
                subject,
                format!("missing, {lost}"),
                "ext4, xfs and btrfs have it",
            )
        }
    };
    vec![
        ability(
            report.fallocate,
            "fallocate",
            "space cannot be reserved ahead",
        ),
        ability(
            report.punch_hole,
            "punch hole",
            "a guest's discards give no space back",
        ),
        direct(name, report),
        fdatasync(name, report),
    ]
}

fn direct(name: &str, report: &FileSystemReport) -> Finding {
    let subject = format!("{name}, O_DIRECT");
    match report.direct {
        Some(alignment) => {
            let says = format!("works, aligned to {} bytes", alignment.offset_bytes);
            Finding::good(subject, says)
        }
        None => Finding::fair(
            subject,
            "missing, images are always read through the page cache",
            "ext4, xfs and btrfs have it",
        ),
    }
}

fn fdatasync(name: &str, report: &FileSystemReport) -> Finding {
    let subject = format!("{name}, fdatasync");
    let says = format!("takes {} us", report.fdatasync.as_micros());
    if report.fdatasync.as_millis() < FDATASYNC_SLOW_MS {
        Finding::good(subject, says)
    } else {
        Finding::fair(
            subject,
            says,
            "guests that sync often are slow: use a faster disk",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_a_file_system_lacks_is_a_warning_with_what_is_lost() {
        let report = FileSystemReport {
            fallocate: true,
            punch_hole: false,
            zero_range: true,
            direct: None,
            fdatasync: Duration::from_millis(20),
        };
        let lines: Vec<_> = findings("nfs", &report)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(lines[0], "ok    nfs, fallocate: works");
        assert!(
            lines[1].starts_with("warn  nfs, punch hole: missing"),
            "{}",
            lines[1]
        );
        assert!(
            lines[2].starts_with("warn  nfs, O_DIRECT: missing"),
            "{}",
            lines[2]
        );
        assert!(
            lines[3].starts_with("warn  nfs, fdatasync: takes 20000 us"),
            "{}",
            lines[3]
        );
    }
}
