//! What must be known before a call can be understood.

use super::super::call::{Call, UserData};
use super::super::file::{Known, OpenFile};
use super::super::file_systems::Place;
use super::super::process::{Process, Standing};
use super::super::question::Question;
use super::Observer;

impl Observer {
    /// What must be known before a call can be understood.
    pub(super) fn missing(&self, cr3: u64, call: &Call) -> Option<Question> {
        let process = self.processes.get(cr3)?;
        // Who confines itself may be confined already, and be killed for a question.
        let last_words = matches!(call, Call::Exit | Call::Confine | Call::Trace { .. });
        if process.standing == Standing::LeftAlone || last_words {
            return None;
        }
        if self.processes.is_doubtful(cr3) {
            return Some(Question::Pid);
        }
        if process.standing == Standing::Unknown && process.executable.is_none() {
            return Some(Question::Executable);
        }
        if process.standing == Standing::Unknown
            && process.parent.is_none()
            && !self.globs.is_empty()
        {
            return Some(Question::ParentPid);
        }
        if process.standing == Standing::Ignored {
            return None;
        }
        match *call {
            Call::Write { fd, data, at, .. } => self
                .missing_of_file(cr3, fd, at.is_none())
                .or_else(|| self.missing_of_name(process, fd, data))
                .or_else(|| self.missing_of_copy(process)),
            Call::Read { fd, at, .. } => self
                .missing_to_read(cr3, fd)
                .or_else(|| self.missing_position(cr3, fd, at)),
            Call::Map { fd } => self.missing_to_read(cr3, fd),
            Call::Truncate { fd, .. } => self.missing_of_file(cr3, fd, false),
            Call::End { named, .. } => self.missing_target(named),
            Call::Transfer { from, to } => self
                .missing_of_file(cr3, from, false)
                .or_else(|| self.missing_of_file(cr3, to, false))
                .or_else(|| self.missing_to_read(cr3, from)),
            _ => None,
        }
    }

    /// The path of a file that is about to be written, where that tells what its content is: by its
    /// name, or because it was told when a file of that name was opened. Or else for the report: when
    /// it is closed, it is too late.
    fn missing_of_name(&self, process: &Process, fd: i32, data: UserData) -> Option<Question> {
        let file = process.files.get(fd).filter(|file| file.counts())?;
        let bytes = match data {
            UserData::One { len, .. } => len,
            UserData::Vector { .. } => u64::MAX,
        };
        (self.name_tells(process, file) || self.report.lacks_name(file.id, bytes))
            .then_some(Question::Path { fd })
    }

    fn name_tells(&self, process: &Process, file: &OpenFile) -> bool {
        let tells = self.looks_for_alike || !process.opened.is_empty();
        tells && file.encrypted == Known::NotYet
    }

    fn missing_of_copy(&self, process: &Process) -> Option<Question> {
        let stands = |fd| process.files.get(fd).map(|file| file.offset);
        self.looks_for_alike
            .then(|| process.copies.question(stands))
            .flatten()
    }

    fn missing_to_read(&self, cr3: u64, fd: i32) -> Option<Question> {
        if let Some(question) = self.missing_of_file(cr3, fd, false) {
            return Some(question);
        }
        let process = self.processes.get(cr3)?;
        let file = process.files.get(fd).filter(|file| file.counts())?;
        if !process.opened.is_empty() && self.name_tells(process, file) {
            return Some(Question::Path { fd });
        }
        let from = file.located_bytes;
        if from >= file.size_bytes {
            return None;
        }
        match self.file_systems.place(file.id.device) {
            Place::NotYet => Some(Question::FileSystem { fd }),
            // Places tell also that what is read is there still.
            Place::Nowhere if !self.looks_for_alike => None,
            Place::Nowhere | Place::On(_) => Some(Question::Extents { fd, from }),
        }
    }

    fn missing_of_file(&self, cr3: u64, fd: i32, moves: bool) -> Option<Question> {
        let Some(file) = self.processes.get(cr3)?.files.get(fd) else {
            return Some(Question::Stat { fd });
        };
        if !file.regular {
            return None;
        }
        let path_counts = file.wanted == Known::NotYet && !self.paths.is_empty();
        if path_counts || self.report.lacks_name(file.id, 0) {
            return Some(Question::Path { fd });
        }
        let size_bytes = self.report.size_bytes(file.id).unwrap_or_default();
        if file.wanted == Known::No || !moves || file.stands_at_end(size_bytes) {
            return None;
        }
        match (file.appends, file.offset) {
            (Known::NotYet, _) => Some(Question::Flags { fd }),
            (Known::No, None) => Some(Question::Offset { fd }),
            _ => None,
        }
    }
}
