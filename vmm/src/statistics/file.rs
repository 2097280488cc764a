//! The file that statistics are written to.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::images;
use crate::cli::DiskArgument;
use crate::output_file;

/// A file that waits for statistics.
pub(crate) struct StatisticsFile<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> StatisticsFile<'a> {
    /// Opens it, before there is something to count for hours in vain, unless it is a file of one
    /// of `images`. What it holds stays until the end. Runs on an executor.
    pub(crate) async fn open(
        path: &'a Path,
        images: impl Iterator<Item = &DiskArgument>,
    ) -> Result<Self> {
        images::refuse(path, images).await?;
        let file = output_file::open(path).with_context(|| cannot(path))?;
        Ok(Self { path, file })
    }

    /// Writes the statistics as JSON, in place of what the file holds.
    pub(crate) fn write(&self, statistics: &impl Serialize) -> Result<()> {
        let mut json = serde_json::to_string_pretty(statistics).context("statistics")?;
        json.push('\n');
        output_file::empty(&self.file).with_context(|| cannot(self.path))?;
        let written = (&self.file).write_all(json.as_bytes());
        written.with_context(|| cannot(self.path))
    }
}

fn cannot(path: &Path) -> String {
    format!("{}: cannot write the statistics", path.display())
}
