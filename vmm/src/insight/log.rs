//! A line for each call that was looked at, and for what was concluded from some, for whoever wants to
//! see what the hooks see.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result};

use super::process::Process;

/// The file that the lines go to, until it cannot be written.
pub(super) struct Log {
    file: Option<BufWriter<File>>,
}

impl Log {
    /// Begins a new file.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("{}: cannot write the log of --insight", path.display()))?;
        Ok(Self {
            file: Some(BufWriter::new(file)),
        })
    }

    /// Has the file hold all lines so far.
    pub(super) fn flush(&mut self) {
        let flushed = self.file.as_mut().map(BufWriter::flush);
        self.end_at(flushed.unwrap_or(Ok(())));
    }

    fn end_at(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            tracing::warn!("the log of --insight ends here: {error}");
            self.file = None;
        }
    }

    /// `PID EXECUTABLE WHAT`, with what is not known as `-`.
    pub(super) fn note(&mut self, process: &Process, what: impl fmt::Display) {
        let Some(file) = &mut self.file else {
            return;
        };
        let pid = process.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let executable = process.executable.as_deref().unwrap_or(b"-");
        let executable = executable.escape_ascii();
        let written = writeln!(file, "{pid} {executable} {what}");
        self.end_at(written);
    }
}
