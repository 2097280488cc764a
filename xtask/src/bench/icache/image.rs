//! The images that guests work on: an ext4 each, with the files of a load.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::lab::share::run;
use ::tests::loads::Load;
use anyhow::{Context as _, Result};
use images::packages::Tool;

/// How large each of them is; what caches are measured by.
pub(super) const BYTES: u64 = 384 << 20;
/// Room for the inodes of the load with the most files, as trees of sources have it.
const INODES: &str = "24576";

/// Makes the image of a load in `directory`.
pub(super) fn make(load: Load, directory: &Path) -> Result<PathBuf> {
    let (files, image) = (
        directory.join(load.name()),
        directory.join(format!("{load}.img")),
    );
    fs::create_dir_all(&files)?;
    load.make(&files)?;
    let problem = || format!("{}: make", image.display());
    let empty = File::create(&image).with_context(problem)?;
    empty.set_len(BYTES).with_context(problem)?;
    let program = Tool::Mke2fs.find();
    let mut mke2fs = Command::new(program.unwrap_or_else(|| Tool::Mke2fs.command().into()));
    // All is there at once: nothing is left for a thread of the guest's kernel to make ready.
    mke2fs.args([
        "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0",
    ]);
    mke2fs.args(["-N", INODES, "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    mke2fs.arg("-d").arg(&files).arg(&image);
    run(&mut mke2fs)?;
    fs::remove_dir_all(&files)?;
    Ok(image)
}
