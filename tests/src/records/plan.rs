//! What a writer does, one operation after the other, and what must be on its disk then.

use std::collections::VecDeque;

use super::{LOGS, Numbers, PAGE_BYTES, record};

/// A log is emptied when it is longer.
const LOG_BYTES_MAX: usize = 96 << 10;
/// The pages that are written in place.
const PAGES: usize = 32;
/// The oldest file goes when there are more.
const FILES_MAX: usize = 10;
/// The largest file, in bytes.
const FILE_BYTES_MAX: usize = 2 << 20;

/// What a writer does at a time. All but a trim end with an fsync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Appends a record to a log, at this offset.
    Append {
        /// Which log.
        log: usize,
        /// Where the log ends.
        offset: usize,
        /// The length of the record.
        bytes: usize,
    },
    /// Empties a log.
    Empty {
        /// Which log.
        log: usize,
    },
    /// Overwrites a page in place.
    Page {
        /// Which page.
        page: usize,
    },
    /// Makes a file for the record.
    Create {
        /// Its length.
        bytes: usize,
    },
    /// Deletes the file of an earlier record.
    Delete {
        /// The number of that record.
        number: u64,
    },
    /// Tells the disk what is not in use.
    Trim,
}

/// One operation of a writer, with its number.
#[derive(Clone, Debug)]
pub struct Step {
    /// The seed of the plan.
    pub seed: u64,
    /// Whose step it is.
    pub writer: usize,
    /// The first is 1.
    pub number: u64,
    /// What is done.
    pub operation: Operation,
}

impl Step {
    /// The record that it writes, if it does.
    pub fn record(&self) -> Option<Vec<u8>> {
        let bytes = match self.operation {
            Operation::Append { bytes, .. } | Operation::Create { bytes } => bytes,
            Operation::Page { .. } => PAGE_BYTES,
            Operation::Empty { .. } | Operation::Delete { .. } | Operation::Trim => return None,
        };
        Some(record(self.seed, self.writer, self.number, bytes))
    }
}

/// What is on the disk after a step.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The content of each log.
    pub logs: [Vec<u8>; LOGS],
    /// The number of the record in each page, 0 where it was never written.
    pub pages: [u64; PAGES],
    /// The numbers of the records that have files, and their lengths in bytes.
    pub files: VecDeque<(u64, usize)>,
}

/// The steps of a writer from the first on, without end.
#[derive(Clone, Debug)]
pub struct Plan {
    seed: u64,
    writer: usize,
    numbers: Numbers,
    number: u64,
    state: State,
}

impl Plan {
    /// The plan of a writer, before its first step.
    pub fn new(seed: u64, writer: usize) -> Self {
        // Writers of one seed do different things.
        let mut numbers = Numbers::new(seed ^ (writer as u64) << 56);
        Self {
            numbers: Numbers::new(numbers.draw()),
            seed,
            writer,
            number: 0,
            state: State::default(),
        }
    }

    /// The plan after step `number`.
    pub fn after(seed: u64, writer: usize, number: u64) -> Self {
        let mut plan = Self::new(seed, writer);
        while plan.number < number {
            plan.step();
        }
        plan
    }

    /// The number of the last step.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What is on the disk after the last step.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The next step. The state is then what it is after it.
    pub fn step(&mut self) -> Step {
        self.number += 1;
        let step = Step {
            seed: self.seed,
            writer: self.writer,
            number: self.number,
            operation: self.operation(),
        };
        self.apply(&step);
        step
    }

    fn operation(&mut self) -> Operation {
        let numbers = &mut self.numbers;
        match numbers.below(1000) {
            0..550 => self.append(),
            550..700 => Operation::Page { page: 0 },
            700..820 => Operation::Page {
                page: numbers.size(1, PAGES),
            },
            820..910 => Operation::Create {
                bytes: numbers.size(1, 20_000),
            },
            910..985 => match self.state.files.front() {
                Some((number, _)) => Operation::Delete { number: *number },
                None => self.append(),
            },
            985..993 => Operation::Create {
                bytes: numbers.size(256 << 10, FILE_BYTES_MAX),
            },
            _ => Operation::Trim,
        }
    }

    /// Appends to a log, or empties it; makes room among the files first.
    fn append(&mut self) -> Operation {
        if let Some((number, _)) = self.state.files.front()
            && self.state.files.len() > FILES_MAX
        {
            return Operation::Delete { number: *number };
        }
        let log = self.numbers.size(0, LOGS);
        match self.state.logs[log].len() {
            offset if offset > LOG_BYTES_MAX => Operation::Empty { log },
            offset => Operation::Append {
                log,
                offset,
                bytes: self.numbers.size(64, 900),
            },
        }
    }

    fn apply(&mut self, step: &Step) {
        let state = &mut self.state;
        match step.operation {
            Operation::Append { log, .. } => {
                state.logs[log].extend(step.record().unwrap_or_default());
            }
            Operation::Empty { log } => state.logs[log].clear(),
            Operation::Page { page } => state.pages[page] = step.number,
            Operation::Create { bytes } => state.files.push_back((step.number, bytes)),
            Operation::Delete { number } => state.files.retain(|(other, _)| *other != number),
            Operation::Trim => {}
        }
    }
}
