//! The list of an entry's files, by which damage is noticed.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const NAME: &str = ".manifest";

/// Writes the manifest of the files now in `entry`.
pub(super) fn write(entry: &Path) -> Result<()> {
    let text = describe(entry).map_err(Error::io("read", entry))?;
    let path = entry.join(NAME);
    fs::write(&path, text).map_err(Error::io("write", &path))
}

/// Whether `entry` is there and its files are those of its manifest.
pub(super) fn holds(entry: &Path) -> bool {
    let Ok(stored) = fs::read_to_string(entry.join(NAME)) else {
        return false;
    };
    describe(entry).is_ok_and(|found| found == stored)
}

fn describe(entry: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    collect(entry, &mut files)?;
    files.sort();
    let mut text = String::new();
    for path in files {
        let name = path.strip_prefix(entry).unwrap_or(&path);
        if name == Path::new(NAME) {
            continue;
        }
        let (checksum, len_bytes) = checksum(&path)?;
        let _ = writeln!(text, "{checksum:08x} {len_bytes} {}", name.display());
    }
    Ok(text)
}

/// Lists regular files; links and directories carry no content of their own.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for item in fs::read_dir(directory)? {
        let item = item?;
        let kind = item.file_type()?;
        if kind.is_dir() {
            collect(&item.path(), files)?;
        } else if kind.is_file() {
            files.push(item.path());
        }
    }
    Ok(())
}

fn checksum(path: &Path) -> io::Result<(u32, u64)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 * 1024];
    let (mut checksum, mut len_bytes) = (0, 0);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((checksum, len_bytes));
        }
        checksum = crc32c::crc32c_append(checksum, &buffer[..count]);
        len_bytes += count as u64;
    }
}
