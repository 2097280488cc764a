//! What must be known before a call can be understood.

use super::super::call::Call;
use super::super::file::Known;
use super::super::process::Standing;
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
            Call::Write { fd, at, .. } => self
                .missing_of_file(cr3, fd, at.is_none())
                .or_else(|| self.missing_of_name(cr3, fd))
                .or_else(|| {
                    let stands = |fd| process.files.get(fd).map(|file| file.offset);
                    process.copies.question(stands)
                }),
            Call::Read { fd, at, .. } => {
                let said = (!process.opened.is_empty()).then_some(());
                said.and_then(|()| self.missing_of_name(cr3, fd))
                    .or_else(|| self.missing_to_read(cr3, fd))
                    .or_else(|| self.missing_position(cr3, fd, at))
            }
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

    /// The path of a file, which may tell what its content is.
    fn missing_of_name(&self, cr3: u64, fd: i32) -> Option<Question> {
        let file = self.processes.get(cr3)?.files.get(fd)?;
        let missing = file.counts() && file.encrypted == Known::NotYet;
        missing.then_some(Question::Path { fd })
    }

    fn missing_to_read(&self, cr3: u64, fd: i32) -> Option<Question> {
        if let Some(question) = self.missing_of_file(cr3, fd, false) {
            return Some(question);
        }
        let file = self.processes.get(cr3)?.files.get(fd)?;
        let from = file.located_bytes;
        (file.counts() && from < file.size_bytes).then_some(Question::Extents { fd, from })
    }

    fn missing_of_file(&self, cr3: u64, fd: i32, moves: bool) -> Option<Question> {
        let Some(file) = self.processes.get(cr3)?.files.get(fd) else {
            return Some(Question::Stat { fd });
        };
        if !file.regular {
            return None;
        }
        let path_counts = file.wanted == Known::NotYet && !self.paths.is_empty();
        if path_counts || self.report.lacks_name(file.id) {
            return Some(Question::Path { fd });
        }
        if file.wanted == Known::No || !moves {
            return None;
        }
        match (file.appends, file.offset) {
            (Known::NotYet, _) => Some(Question::Flags { fd }),
            (Known::No, None) => Some(Question::Offset { fd }),
            _ => None,
        }
    }
}
