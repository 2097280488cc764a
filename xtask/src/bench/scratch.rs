//! A directory for the images of a benchmark.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tests::lab::scratch;

/// A directory that goes with everything in it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one in `parent`, or in cargo's target directory.
    pub(super) fn make(name: &str, parent: Option<&Path>) -> Result<Self> {
        let parent = match parent {
            Some(parent) => parent.to_owned(),
            None => scratch()?,
        };
        let directory = parent.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&directory)
            .with_context(|| format!("{}: cannot create", directory.display()))?;
        Ok(Self(directory))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("xtask: {}: cannot remove: {error}", self.0.display());
        }
    }
}
