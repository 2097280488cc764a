//! A load on a file system of its own, in a new image.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::load::Load;
use crate::bench::contender::Contender;
use crate::bench::figures::per;
use crate::bench::file_system::Mounted;
use crate::bench::fuse::Export;
use crate::bench::ground::Ground;
use crate::bench::interrupt::Interrupt;
use crate::bench::nbd::Programs;
use crate::bench::new_image::create;

/// What is measured, where.
pub(super) struct Bench<'a> {
    pub(super) programs: &'a Programs,
    pub(super) contenders: &'a [Contender],
    pub(super) directory: &'a Path,
    /// What is below the directory.
    pub(super) ground: Ground,
    pub(super) interrupt: &'a Interrupt,
    pub(super) runs: usize,
    pub(super) image_bytes: u64,
}

/// What was measured with a load, for each contender.
pub(super) struct Row {
    pub(super) load: Load,
    pub(super) samples: Vec<Vec<Sample>>,
}

/// A run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Operations a second.
    pub(super) rate: f64,
    /// How often the guest flushed its disk, for an operation.
    pub(super) guest_flushes: Option<f64>,
    /// How often the host's device was flushed, for an operation.
    pub(super) device_flushes: Option<f64>,
}

impl Sample {
    /// How often the host's device was flushed, for each time that the guest flushed its own.
    pub(super) fn device_flushes_each(&self) -> Option<f64> {
        let guests = self.guest_flushes.filter(|&flushes| flushes > 0.0)?;
        Some(self.device_flushes? / guests)
    }
}

/// A file that goes when it is dropped.
struct Image(PathBuf);

impl Drop for Image {
    fn drop(&mut self) {
        // Its directory goes too, a little later.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Bench<'_> {
    /// Measures everyone with a load.
    pub(super) fn measure(&self, load: Load) -> Result<Row> {
        let mut samples = vec![Vec::new(); self.contenders.len()];
        for round in 0..self.runs {
            for turn in 0..self.contenders.len() {
                self.interrupt.check()?;
                // Each comes first in its turn, should that matter.
                let n = (round + turn) % self.contenders.len();
                let contender = &self.contenders[n];
                let sample = self.run(contender, load);
                samples[n].push(sample.with_context(|| contender.name)?);
            }
        }
        Ok(Row { load, samples })
    }

    /// One run, on everything new.
    fn run(&self, contender: &Contender, load: Load) -> Result<Sample> {
        let image = Image(self.directory.join(contender.name.replace(' ', "-")));
        let (format, size_bytes) = (contender.format, self.image_bytes);
        create(self.programs, format, &image.0, size_bytes, None)?;
        let export = self.export(contender, &image.0)?;
        let file_system = Mounted::ext4(export.file(), image.0.with_extension("ext4"))?;
        let prepared = load.prepare(file_system.directory(), self.directory)?;
        let guest = Ground::below(file_system.directory())?;
        let before = (guest.counts(), self.ground.counts());
        let done = prepared()?;
        let after = (guest.counts(), self.ground.counts());
        file_system.unmount()?;
        export.stop()?;
        let flushes = |after: Option<_>, before| -> Option<f64> {
            let (after, before): (crate::bench::ground::DeviceCounts, _) = after.zip(before)?;
            Some(per(after.since(before).flushes, done.operations))
        };
        Ok(Sample {
            rate: done.operations / done.seconds,
            guest_flushes: flushes(after.0, before.0),
            device_flushes: flushes(after.1, before.1),
        })
    }

    fn export(&self, contender: &Contender, image: &Path) -> Result<Export> {
        let point = image.with_extension("mounted");
        match contender.ours(image) {
            Some(words) => Export::microvm(&self.programs.ours, &words, point),
            None => Export::qemu(&self.programs.qemu, &contender.qemu_nodes(image), point),
        }
    }
}
