//! The writers.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Operation, PAGE_BYTES, PAGES_NAME, Plan, Step, WRITERS, file_name, log_name};

/// Whether trims are asked for, or left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// `fstrim` is run on the directory.
    Ask,
    /// For directories whose file system is not ours to trim.
    LeaveOut,
}

/// Writes the records of `seed` into `directory`, up to number `last` of each writer, and calls
/// `report` with writer and number after each fsync. The first error ends all writers.
pub fn write(
    directory: &Path,
    seed: u64,
    last: u64,
    trim: Trim,
    report: impl Fn(usize, u64) -> Result<()> + Sync,
) -> Result<()> {
    let failed = &AtomicBool::new(false);
    let report = &report;
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let writer = Writer {
                    directory: directory.join(number.to_string()),
                    trim,
                };
                let plan = Plan::new(seed, number);
                scope.spawn(move || {
                    let outcome = writer.run(plan, last, failed, |done| report(number, done));
                    failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    outcome
                })
            })
            .collect();
        let mut ended = writers.into_iter().map(thread::ScopedJoinHandle::join);
        ended.try_for_each(|outcome| outcome.unwrap_or_else(|_| bail!("a writer panicked")))
    })
}

struct Writer {
    directory: PathBuf,
    trim: Trim,
}

impl Writer {
    fn run(
        &self,
        mut plan: Plan,
        last: u64,
        failed: &AtomicBool,
        report: impl Fn(u64) -> Result<()>,
    ) -> Result<()> {
        fs::create_dir_all(&self.directory).with_context(|| self.shown("create"))?;
        // The names of both directories are as durable as what is written into them.
        if let Some(parent) = self.directory.parent() {
            sync_directory(parent)?;
            sync_directory(parent.parent().unwrap_or(parent))?;
        }
        while plan.number() < last && !failed.load(Ordering::Relaxed) {
            let step = plan.step();
            self.perform(&step)
                .with_context(|| self.shown(&format!("step {}", step.number)))?;
            report(step.number)?;
        }
        Ok(())
    }

    fn perform(&self, step: &Step) -> Result<()> {
        let record = step.record().unwrap_or_default();
        match step.operation {
            Operation::Append { log, offset, .. } => {
                self.write(&log_name(log), offset, &record)?;
            }
            Operation::Page { page } => self.write(PAGES_NAME, page * PAGE_BYTES, &record)?,
            Operation::Create { .. } => self.write(&file_name(step.number), 0, &record)?,
            Operation::Empty { log } => {
                let file = File::options()
                    .write(true)
                    .open(self.directory.join(log_name(log)))?;
                file.set_len(0)?;
                file.sync_all()?;
            }
            Operation::Delete { number } => {
                fs::remove_file(self.directory.join(file_name(number)))?;
                sync_directory(&self.directory)?;
            }
            Operation::Trim if self.trim == Trim::Ask => {
                let status = Command::new("fstrim").arg(&self.directory).status()?;
                ensure!(status.success(), "fstrim: {status}");
            }
            Operation::Trim => {}
        }
        Ok(())
    }

    /// Writes, and has it durable: what a new file is called too.
    fn write(&self, name: &str, offset: usize, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let is_new = !path.exists();
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false);
        let file = file.open(&path)?;
        file.write_all_at(bytes, offset as u64)?;
        if is_new {
            file.sync_all()?;
            return sync_directory(&self.directory);
        }
        Ok(file.sync_data()?)
    }

    fn shown(&self, what: &str) -> String {
        format!("{}: {what}", self.directory.display())
    }
}

fn sync_directory(directory: &Path) -> Result<()> {
    Ok(File::open(directory)?.sync_all()?)
}
