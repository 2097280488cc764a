//! What must be on the disk of a writer that was stopped at any moment.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{LOGS, Operation, PAGE_BYTES, PAGES_NAME, Plan, Step, file_name, log_name, record};

/// How many steps beyond the last reported one are looked for. The console of a guest holds a few
/// hundred reports that nobody has read yet.
const LOOK_AHEAD: usize = 4000;
/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;
/// How much of a difference is shown.
const SHOWN_BYTES: usize = 120;

/// What was found of a writer.
#[derive(Debug)]
pub struct Verdict {
    /// The last step that is on the disk; at least the one that was reported.
    pub found: u64,
    /// What is missing, torn or foreign.
    pub faults: Vec<String>,
}

/// Compares `directory` with what a writer of `seed` had done when it had reported `reported`.
///
/// Writers do one step after the other, so the last one whose record is there tells how far this
/// one got. All before it must be there, byte for byte. The steps after it up to the next that
/// writes a record may have begun: of these, any part may be there, and nothing but them.
pub fn verify(directory: &Path, seed: u64, writer: usize, reported: u64) -> Result<Verdict> {
    let directory = directory.join(writer.to_string());
    let last = last_found(&directory, Plan::after(seed, writer, reported))?;
    let mut begun = Vec::new();
    let mut ahead = last.clone();
    loop {
        let step = ahead.step();
        let is_last = step.record().is_some();
        begun.push(step);
        if is_last {
            break;
        }
    }
    let found = last.number();
    let mut comparison = Comparison {
        directory,
        seed,
        writer,
        last,
        begun,
        faults: Vec::new(),
    };
    if comparison.directory.exists() {
        comparison.logs()?;
        comparison.pages()?;
        comparison.files()?;
        comparison.names()?;
    } else if found > 0 {
        comparison.fault("", "is missing");
    }
    Ok(Verdict {
        found,
        faults: comparison.faults,
    })
}

/// The plan at the last step whose record is on the disk.
fn last_found(directory: &Path, reported: Plan) -> Result<Plan> {
    let mut last = reported.clone();
    let mut ahead = reported;
    for _ in 0..LOOK_AHEAD {
        let step = ahead.step();
        if is_there(directory, &step)? {
            last = ahead.clone();
        }
    }
    Ok(last)
}

fn is_there(directory: &Path, step: &Step) -> Result<bool> {
    let (name, offset) = match step.operation {
        Operation::Append { log, offset, .. } => (log_name(log), offset),
        Operation::Page { page } => (PAGES_NAME.to_owned(), page * PAGE_BYTES),
        Operation::Create { .. } => (file_name(step.number), 0),
        Operation::Empty { .. } | Operation::Delete { .. } | Operation::Trim => return Ok(false),
    };
    let file = match File::open(directory.join(&name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file.with_context(|| name.clone())?,
    };
    let record = step.record().unwrap_or_default();
    let mut there = vec![0; record.len()];
    match file.read_exact_at(&mut there, offset as u64) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.with_context(|| name).map(|()| there == record),
    }
}

struct Comparison {
    directory: PathBuf,
    seed: u64,
    writer: usize,
    last: Plan,
    begun: Vec<Step>,
    faults: Vec<String>,
}

impl Comparison {
    fn logs(&mut self) -> Result<()> {
        for log in 0..LOGS {
            let content = self.last.state().logs[log].clone();
            let there = self.read(&log_name(log))?.unwrap_or_default();
            let emptied = self.has_begun(|operation| *operation == Operation::Empty { log });
            let whole = self.grown(log, &content, &there);
            if let Err(fault) = whole
                && !(emptied && self.grown(log, &[], &there).is_ok())
            {
                self.fault(&log_name(log), &fault);
            }
        }
        Ok(())
    }

    /// Whether `there` is the log with the content `before`, and perhaps a part of one more record.
    fn grown(&self, log: usize, before: &[u8], there: &[u8]) -> Result<(), String> {
        let next = self.begun.iter().find(|step| {
            matches!(step.operation,
                Operation::Append { log: other, offset, .. }
                    if other == log && offset == before.len())
        });
        let next = next.and_then(Step::record).unwrap_or_default();
        let kept = there.len().min(before.len());
        same(before, &there[..kept])?;
        part_of(&next, &there[kept..])
            .map_err(|fault| format!("after the last record at byte {kept}: {fault}"))
    }

    fn pages(&mut self) -> Result<()> {
        let there = self.read(PAGES_NAME)?.unwrap_or_default();
        let numbers = self.last.state().pages;
        let mut last_page = None;
        for (page, number) in numbers.into_iter().enumerate() {
            let start = (page * PAGE_BYTES).min(there.len());
            let end = (start + PAGE_BYTES).min(there.len());
            // What was never written reads as zeros, and so does what is beyond the end.
            let mut found = there[start..end].to_vec();
            found.resize(PAGE_BYTES, 0);
            let old = self.page(number);
            let written = |step: &&Step| step.operation == Operation::Page { page };
            let new = self
                .begun
                .iter()
                .find(written)
                .map(|step| self.page(step.number));
            if number > 0 || new.is_some() {
                last_page = Some(page);
            }
            let is_mix = new.is_some_and(|new| is_mix_of(&old, &new, &found));
            if !is_mix && let Err(fault) = same(&old, &found) {
                self.fault(PAGES_NAME, &format!("page {page}: {fault}"));
            }
        }
        let bytes_max = last_page.map_or(0, |page| (page + 1) * PAGE_BYTES);
        if there.len() > bytes_max {
            let fault = format!("{} bytes, of which {bytes_max} were written", there.len());
            self.fault(PAGES_NAME, &fault);
        }
        Ok(())
    }

    fn page(&self, number: u64) -> Vec<u8> {
        match number {
            0 => vec![0; PAGE_BYTES],
            number => record(self.seed, self.writer, number, PAGE_BYTES),
        }
    }

    fn files(&mut self) -> Result<()> {
        for (number, bytes) in self.last.state().files.clone() {
            let name = file_name(number);
            let deleted = self.has_begun(|operation| *operation == Operation::Delete { number });
            let fault = match self.read(&name)? {
                None if deleted => continue,
                None => Err("is missing".to_owned()),
                Some(there) => same(&record(self.seed, self.writer, number, bytes), &there),
            };
            if let Err(fault) = fault {
                self.fault(&name, &fault);
            }
        }
        for step in self.begun.clone() {
            let name = file_name(step.number);
            if let (Operation::Create { .. }, Some(there)) = (step.operation, self.read(&name)?)
                && let Err(fault) = part_of(&step.record().unwrap_or_default(), &there)
            {
                self.fault(&name, &fault);
            }
        }
        Ok(())
    }

    /// Nothing is there but what was made and not deleted.
    fn names(&mut self) -> Result<()> {
        let mut names: BTreeSet<_> = (0..LOGS).map(log_name).collect();
        names.insert(PAGES_NAME.to_owned());
        let files = self.last.state().files.iter();
        names.extend(files.map(|(number, _)| file_name(*number)));
        names.extend(self.begun.iter().map(|step| file_name(step.number)));
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !names.contains(&name) {
                self.fault(&name, "is there, and was deleted or never made");
            }
        }
        Ok(())
    }

    fn has_begun(&self, is_it: impl Fn(&Operation) -> bool) -> bool {
        self.begun.iter().any(|step| is_it(&step.operation))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.with_context(|| name.to_owned()).map(Some),
        }
    }

    fn fault(&mut self, name: &str, what: &str) {
        let path = self.directory.join(name);
        self.faults.push(format!("{}: {what}", path.display()));
    }
}

/// Whether two contents are the same; else where they differ, and what is there.
fn same(expected: &[u8], there: &[u8]) -> Result<(), String> {
    let differs = |at: &usize| expected.get(*at) != there.get(*at);
    let Some(at) = (0..expected.len().max(there.len())).find(differs) else {
        return Ok(());
    };
    let [expected, found] = [expected, there].map(|bytes| shown(bytes, at));
    Err(format!(
        "differs from byte {at} on: expected {expected}, found {found}"
    ))
}

/// Whether `there` is a beginning of `record`, with zeros where a part of it was not written.
fn part_of(record: &[u8], there: &[u8]) -> Result<(), String> {
    let mut bytes = there.iter().zip(record);
    let is_part = bytes.all(|(found, expected)| found == expected || *found == 0);
    if is_part && there.len() <= record.len() {
        return Ok(());
    }
    same(record, there)
}

/// Whether each sector of `there` is that of `old` or of `new`.
fn is_mix_of(old: &[u8], new: &[u8], there: &[u8]) -> bool {
    let sectors = |bytes: &'_ [u8], at: usize| bytes[at..at + SECTOR_BYTES].to_vec();
    (0..PAGE_BYTES).step_by(SECTOR_BYTES).all(|at| {
        [old, new]
            .map(|page| sectors(page, at))
            .contains(&sectors(there, at))
    })
}

fn shown(bytes: &[u8], at: usize) -> String {
    let rest = bytes.get(at..).unwrap_or_default();
    let end = rest.len().min(SHOWN_BYTES);
    let zeros = rest.iter().take_while(|byte| **byte == 0).count();
    match (rest.len(), zeros) {
        (0, _) => "the end".to_owned(),
        (_, 0) => format!("{:?}", String::from_utf8_lossy(&rest[..end])),
        (_, zeros) => format!("{zeros} zeros"),
    }
}
