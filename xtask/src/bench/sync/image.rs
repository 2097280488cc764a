//! The images, a fresh one for each contender and load.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::load::{CLUSTER_BYTES, Load, Target};
use crate::bench::contender::{Contender, Format};
use crate::bench::nbd::{Programs, fill, warm};
use crate::bench::new_image::{convert, create};
use crate::bench::places::Places;

/// The size of a disk whose clusters are new.
const SPARSE_BYTES: u64 = 8 << 30;

/// A directory with what images are made of.
pub(super) struct Images<'a> {
    programs: &'a Programs,
    directory: PathBuf,
    filled: PathBuf,
    /// The size of a disk that is allocated, or whose base is.
    filled_bytes: u64,
}

/// An image, removed when it is dropped.
pub(in crate::bench) struct Image {
    pub(super) path: PathBuf,
    pub(super) places: Places,
    /// What has yet to be written for the load to find it as it should be.
    pub(super) missing: Option<Places>,
}

impl<'a> Images<'a> {
    /// Uses a directory. Disks that are allocated, and bases, have so many bytes.
    pub(super) fn new(programs: &'a Programs, directory: &Path, filled_bytes: u64) -> Result<Self> {
        let filled = directory.join("filled");
        fill(&filled, filled_bytes)?;
        warm(&filled)?;
        Ok(Self {
            programs,
            directory: directory.to_owned(),
            filled,
            filled_bytes,
        })
    }

    /// How much of a disk that is allocated is there on a base too: were it all, the image would
    /// stand alone.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.filled_bytes - CLUSTER_BYTES
    }

    /// Makes an image for a load, as new as the load needs it.
    pub(super) fn make(&self, contender: &Contender, load: &Load) -> Result<Image> {
        let path = self.directory.join(contender.name.replace(' ', "-"));
        let image = if contender.format == Format::RawFilled || !load.target.is_new() {
            self.allocated(contender, load, path)
        } else {
            self.sparse(contender, load, path)
        };
        image.with_context(|| format!("cannot make {}", contender.name))
    }

    /// With all clusters that the load writes to.
    fn allocated(&self, contender: &Contender, load: &Load, path: PathBuf) -> Result<Image> {
        let image = Image {
            places: load.places(self.allocated_bytes()),
            missing: contender.on_base.then(|| {
                let places = Places::in_order(self.allocated_bytes(), CLUSTER_BYTES);
                places.once()
            }),
            path,
        };
        let path = &image.path;
        match contender.format {
            Format::Raw | Format::RawFilled => fill(path, self.filled_bytes)?,
            format if contender.on_base => {
                let (programs, base) = (self.programs, Some(&*self.filled));
                create(programs, format, path, self.filled_bytes, base)?;
            }
            format => convert(self.programs, format, path, &self.filled)?,
        }
        warm(path)?;
        Ok(image)
    }

    /// With new clusters only.
    fn sparse(&self, contender: &Contender, load: &Load, path: PathBuf) -> Result<Image> {
        let on_base = contender.on_base || load.target == Target::OverBacking;
        let (size_bytes, base) = if on_base {
            (self.filled_bytes, Some(&*self.filled))
        } else {
            (SPARSE_BYTES, None)
        };
        let image = Image {
            places: load.places(size_bytes).once(),
            missing: None,
            path,
        };
        let (programs, format) = (self.programs, contender.format);
        create(programs, format, &image.path, size_bytes, base)?;
        Ok(image)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Its directory goes too, a little later.
        let _ = fs::remove_file(&self.path);
    }
}
