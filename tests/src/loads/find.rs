//! `find` over a large tree, and `grep` in some of what it finds, beside a backup.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::content::{BLOCK_BYTES, write};
use crate::records::Numbers;

/// The tree has so many directories, each with directories and they with files.
const TOP: u64 = 20;
const BELOW: u64 = 40;
const FILES: u64 = 10;
/// The most blocks of a file.
const BLOCKS_MAX: u64 = 3;
/// One file of so many is looked into.
const READ_ONE_OF: u64 = 40;
/// The backup reads a piece while `find` looks at so many files.
const SCAN_ONE_OF: u64 = 20;
/// What it reads at a time.
const SCAN_BYTES: usize = 128 << 10;
/// The large file that it reads.
const LARGE_BYTES: u64 = 256 << 20;
const LARGE: &str = "large";
const TREE: &str = "tree";

pub(super) fn make(directory: &Path) -> Result<()> {
    let mut numbers = Numbers::new(1);
    let mut block = 0;
    for top in 0..TOP {
        for below in 0..BELOW {
            let place = directory.join(format!("{TREE}/part-{top}/directory-{below}"));
            fs::create_dir_all(&place)?;
            for file in 0..FILES {
                let bytes = 1 + numbers.below(BLOCKS_MAX * BLOCK_BYTES);
                write(&place.join(format!("source-{file}.c")), block, bytes)?;
                block += BLOCKS_MAX;
            }
        }
    }
    write(&directory.join(LARGE), block, LARGE_BYTES).map(drop)
}

/// A walk through the tree, and where the backup is.
struct Walk {
    large: File,
    position: u64,
    scanned: Vec<u8>,
    files: u64,
}

/// Walks the tree once, in the order in which the file system has its names.
pub(super) fn round(directory: &Path, round: u64) -> Result<u64> {
    let scanned_in_round = TOP * BELOW * FILES / SCAN_ONE_OF * SCAN_BYTES as u64;
    let path = directory.join(LARGE);
    let mut walk = Walk {
        large: File::open(&path).with_context(|| format!("{}: open", path.display()))?,
        position: round * scanned_in_round,
        scanned: vec![0; SCAN_BYTES],
        files: 0,
    };
    walk.enter(&directory.join(TREE))?;
    Ok(walk.files)
}

impl Walk {
    fn enter(&mut self, directory: &Path) -> Result<()> {
        let problem = || format!("{}: read", directory.display());
        let mut directories = Vec::new();
        for entry in fs::read_dir(directory).with_context(problem)? {
            let path = entry.with_context(problem)?.path();
            let metadata = fs::symlink_metadata(&path).with_context(problem)?;
            if metadata.is_dir() {
                directories.push(path);
            } else {
                self.look_at(&path)?;
            }
        }
        directories.iter().try_for_each(|path| self.enter(path))
    }

    fn look_at(&mut self, path: &Path) -> Result<()> {
        self.files += 1;
        if self.files.is_multiple_of(READ_ONE_OF) {
            fs::read(path).with_context(|| format!("{}: read", path.display()))?;
        }
        if self.files.is_multiple_of(SCAN_ONE_OF) {
            let at = self.position % (LARGE_BYTES - SCAN_BYTES as u64);
            self.large.read_exact_at(&mut self.scanned, at)?;
            self.position += SCAN_BYTES as u64;
        }
        Ok(())
    }
}
