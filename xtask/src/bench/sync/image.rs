//! The images, a fresh one for each contender and load.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use images::packages::Tool;

use super::load::{Load, Target};
use super::places::Places;
use crate::bench::contender::Format;
use crate::bench::nbd::{fill, warm};

/// The size of a disk whose clusters are new.
const SPARSE_BYTES: u64 = 8 << 30;
/// The size of a disk that is allocated, or whose backing file is.
const FILLED_BYTES: u64 = 256 << 20;

/// A directory with what images are made of.
pub(super) struct Images {
    directory: PathBuf,
    filled: PathBuf,
}

/// An image, removed when it is dropped.
pub(super) struct Image {
    pub(super) path: PathBuf,
    pub(super) places: Places,
}

impl Images {
    /// Uses a directory.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let filled = directory.join("filled");
        fill(&filled, FILLED_BYTES)?;
        warm(&filled)?;
        Ok(Self {
            directory: directory.to_owned(),
            filled,
        })
    }

    /// Makes an image for a load, as new as the load needs it.
    pub(super) fn make(&self, name: &str, format: Format, load: &Load) -> Result<Image> {
        let path = self.directory.join(name.replace(' ', "-"));
        let once = format != Format::RawFilled
            && !matches!(load.target, Target::Allocated | Target::Discarded);
        let size_bytes = if once && load.target != Target::OverBacking {
            SPARSE_BYTES
        } else {
            FILLED_BYTES
        };
        let image = Image {
            places: Places::new(load, size_bytes, once),
            path,
        };
        let path = &image.path;
        match format {
            Format::Qcow2 { lazy_refcounts } if !once => self.convert(path, lazy_refcounts)?,
            Format::Qcow2 { lazy_refcounts } => {
                let backing = (load.target == Target::OverBacking).then_some(&*self.filled);
                create(path, lazy_refcounts, size_bytes, backing)?;
            }
            Format::Raw | Format::RawFilled if !once => fill(path, size_bytes)?,
            Format::Raw | Format::RawFilled => {
                let file = File::create(path);
                let file = file.with_context(|| format!("{}: create", path.display()))?;
                file.set_len(size_bytes)?;
            }
        }
        if !once {
            warm(path)?;
        }
        Ok(image)
    }

    fn convert(&self, path: &Path, lazy_refcounts: bool) -> Result<()> {
        let mut convert = qemu_img("convert", lazy_refcounts);
        convert.args(["-f", "raw", "-O", "qcow2"]);
        convert.args([&self.filled, path]);
        succeed(&mut convert)
    }
}

fn create(
    path: &Path,
    lazy_refcounts: bool,
    size_bytes: u64,
    backing: Option<&Path>,
) -> Result<()> {
    let mut create = qemu_img("create", lazy_refcounts);
    create.args(["-q", "-f", "qcow2"]);
    if let Some(backing) = backing {
        create.args(["-F", "raw", "-b"]).arg(backing);
    }
    succeed(create.arg(path).arg(size_bytes.to_string()))
}

fn qemu_img(verb: &str, lazy_refcounts: bool) -> Command {
    let mut command = Command::new(Tool::QemuImg.command());
    command.arg(verb);
    if lazy_refcounts {
        command.args(["-o", "lazy_refcounts=on"]);
    }
    command
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status();
    let status = status.with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

impl Drop for Image {
    fn drop(&mut self) {
        // Its directory goes too, a little later.
        let _ = fs::remove_file(&self.path);
    }
}
