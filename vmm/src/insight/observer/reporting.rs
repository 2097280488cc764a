//! What the report is told of calls.

use super::super::call::{Call, UserData};
use super::super::content::pieces;
use super::super::file::{Known, OpenFile};
use super::super::named::{Fate, Named};
use super::super::process::{Process, Standing};
use super::super::question::{Answer, Question, Stat};
use super::super::report::{Access, Caller};
use super::learning::counts;
use super::{Observer, Scene};

/// What is known of the file that the call at hand names by its path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Target {
    #[default]
    NotAsked,
    /// There is none, or it is not told.
    None,
    Is(Stat),
}

impl Observer {
    /// Where a read begins that names no position is asked when a descriptor is met, and now and
    /// then.
    pub(super) fn missing_position(&self, cr3: u64, fd: i32, at: Option<u64>) -> Option<Question> {
        let file = self.processes.get(cr3)?.files.get(fd)?;
        let unknown = at.or(file.position()).is_none();
        (file.counts() && unknown).then_some(Question::Offset { fd })
    }

    /// A file that is about to end is asked for in any case: only the guest's kernel knows which it
    /// is, and how many names it has.
    pub(super) fn missing_target(&self, named: Named) -> Option<Question> {
        matches!(self.target, Target::NotAsked).then_some(Question::StatNamed(named))
    }

    /// An answer that tells something of a file.
    pub(super) fn learn_for_report(
        &mut self,
        scene: &Scene<'_>,
        question: Question,
        answer: &Answer,
    ) {
        if let Question::StatNamed(_) = question {
            self.target = match answer {
                Answer::Stat(stat) => Target::Is(*stat),
                _ => Target::None,
            };
        }
        let Some(process) = self.processes.get(scene.root.table) else {
            return;
        };
        match (question, answer) {
            (Question::Stat { .. }, Answer::Stat(stat)) => {
                let pid = process.pid.unwrap_or_default();
                let file = OpenFile::new(Some(*stat));
                self.report.opened(scene.now_ms, &file, pid);
            }
            (Question::Path { fd }, answer) => {
                let Some(file) = process.files.get(fd) else {
                    return;
                };
                let path = match answer {
                    Answer::Text(path) => Some(&path[..]),
                    _ => None,
                };
                self.report.named(file.id, path);
                if !counts(&self.paths, path.unwrap_or_default()) {
                    self.report.disregard(file.id);
                }
            }
            _ => {}
        }
    }

    /// A call is about to be made, by a process and through descriptors that are known as well as
    /// they can be.
    pub(super) fn note_for_report(&mut self, scene: &Scene<'_>, cr3: u64, call: &Call) {
        let target = std::mem::take(&mut self.target);
        let Some(process) = self.processes.get(cr3) else {
            return;
        };
        if process.standing != Standing::Watched || !self.asks {
            return;
        }
        self.report.called(scene.now_ms, caller(process));
        match *call {
            Call::Read { fd, data, at, .. } => self.note_read(scene, cr3, fd, data, at),
            Call::Write { fd, data, at, .. } => self.note_write(scene, cr3, fd, data, at),
            Call::Transfer { .. } => self.report.transferred(),
            Call::Map { .. } => self.report.mapped(),
            Call::Truncate { fd, size_bytes } => {
                if let Some(file) = process.files.get(fd).filter(|file| file.counts()) {
                    self.report.truncated(scene.now_ms, file.id, size_bytes);
                }
            }
            Call::End { fate, .. } => {
                if let Target::Is(stat) = target {
                    self.note_end(scene, fate, stat);
                }
            }
            _ => {}
        }
    }

    fn note_read(&mut self, scene: &Scene<'_>, cr3: u64, fd: i32, data: UserData, at: Option<u64>) {
        let Some(process) = self.processes.get_mut(cr3) else {
            return;
        };
        let Some(file) = process.files.get(fd).filter(|file| file.counts()) else {
            return;
        };
        let position = at.or(file.position());
        let access = access(scene, file, position, data);
        let len = self.report.read(caller(process), access);
        if let (None, Some(start)) = (at, position) {
            process.files.read(fd, start.saturating_add(len));
        }
    }

    fn note_write(
        &mut self,
        scene: &Scene<'_>,
        cr3: u64,
        fd: i32,
        data: UserData,
        at: Option<u64>,
    ) {
        let Some(process) = self.processes.get(cr3) else {
            return;
        };
        let Some(file) = process.files.get(fd).filter(|file| file.counts()) else {
            return;
        };
        let mut position = at.or(file.write_start());
        if at.is_none() && file.appends == Known::Yes {
            // Others may have added to it.
            position = position.max(self.report.size_bytes(file.id));
        }
        let access = access(scene, file, position, data);
        self.report.wrote(caller(process), access);
    }

    fn note_end(&mut self, scene: &Scene<'_>, fate: Fate, stat: Stat) {
        let file = OpenFile::new(Some(stat));
        if !file.regular {
            return;
        }
        match fate {
            Fate::Unlinked => self.report.unlinked(scene.now_ms, file.id, stat.links),
            Fate::Truncated(size_bytes) => {
                self.report.truncated(scene.now_ms, file.id, size_bytes);
            }
        }
    }
}

fn caller(process: &Process) -> Caller<'_> {
    Caller {
        executable: process.executable.as_deref().unwrap_or_default(),
        pid: process.pid.unwrap_or_default(),
    }
}

fn access(scene: &Scene<'_>, file: &OpenFile, position: Option<u64>, data: UserData) -> Access {
    let pieces = pieces(scene.memory, scene.root, data);
    let lens = pieces.iter().map(|(_, len)| *len);
    Access {
        at_ms: scene.now_ms,
        file: file.id,
        position,
        len: lens.fold(0, u64::saturating_add),
        size_bytes: file.size_bytes,
    }
}
