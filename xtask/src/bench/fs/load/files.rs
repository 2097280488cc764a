//! Many files, new ones: a source tree that is unpacked, and `PostMark`'s mailbox.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::fs::syncfs;

use super::Done;
use super::random::Random;
use crate::bench::file_system::succeed;

/// Of the tree.
const TREE_DIRECTORIES: u64 = 80;
const TREE_FILES: u64 = 2000;
/// Of the mailbox, as `PostMark` has it by itself: 500 files of 500 to 9,770 bytes; more, so that it
/// takes a while.
const BOX_FILES: u64 = 4000;
const BOX_FILE_BYTES: (u64, u64) = (500, 9770);
const BOX_DIRECTORIES: u64 = 10;

/// Packs a tree with the file sizes of a source tree: most have a few KiB, a few have hundreds.
pub(super) fn pack(directory: &Path) -> Result<PathBuf> {
    let archive = directory.join("tree.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let tree = directory.join("tree");
    let mut random = Random::new(TREE_FILES);
    for n in 0..TREE_DIRECTORIES {
        fs::create_dir_all(tree.join(format!("d{n}")))?;
    }
    for n in 0..TREE_FILES {
        let mean = 1 << (9 + random.below(4) + random.below(4) + random.below(2));
        let path = tree.join(format!("d{}/f{n}", n % TREE_DIRECTORIES));
        let len = mean + random.below(mean);
        fs::write(&path, random.text(len)).with_context(|| path.display().to_string())?;
    }
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&tree).arg("-cf").arg(&archive).arg(".");
    succeed(&mut tar)?;
    fs::remove_dir_all(&tree)?;
    Ok(archive)
}

/// Unpacks the tree, durably.
pub(super) fn unpack(archive: &Path, directory: &Path) -> Result<Done> {
    let start = Instant::now();
    let mut tar = Command::new("tar");
    succeed(tar.arg("-C").arg(directory).arg("-xf").arg(archive))?;
    finish(directory, TREE_FILES, start)
}

/// Makes the mailbox, durably.
pub(super) fn create(directory: &Path) -> Result<Done> {
    let start = Instant::now();
    let mut random = Random::new(BOX_FILES);
    let (least, most) = BOX_FILE_BYTES;
    for n in 0..BOX_DIRECTORIES {
        fs::create_dir(directory.join(format!("s{n}")))?;
    }
    for n in 0..BOX_FILES {
        let path = directory.join(format!("s{}/{n}", n % BOX_DIRECTORIES));
        let len = least + random.below(most - least + 1);
        File::create(path)?.write_all(&random.text(len))?;
    }
    finish(directory, BOX_FILES, start)
}

fn finish(directory: &Path, files: u64, start: Instant) -> Result<Done> {
    syncfs(File::open(directory)?)?;
    Ok(Done {
        operations: super::count(files),
        seconds: start.elapsed().as_secs_f64(),
    })
}
