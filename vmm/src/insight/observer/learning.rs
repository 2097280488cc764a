//! What answers say.

use disk::{Class, DedupHint, mutant};

use super::super::call::Call;
use super::super::copies::sample;
use super::super::file::{Known, OpenFile};
use super::super::file_systems::{FileSystems, Place};
use super::super::located::{Located, Waiting};
use super::super::process::Standing;
use super::super::question::{Answer, FileExtent, Question};
use super::super::uniqueness::is_encrypted_name;
use super::{Observer, Scene};

const O_APPEND: u64 = 0o2000;

impl Observer {
    pub(super) fn take_answer(
        &mut self,
        scene: &Scene<'_>,
        call: &Call,
        question: Question,
        answer: Answer,
    ) {
        match question {
            Question::Content { fd, address, .. } => {
                self.compare(scene, call, fd, address, &answer);
            }
            _ => self.learn(scene, question, answer),
        }
    }

    /// The kernel said, or did not, what the file of `from` has that a process is about to write.
    fn compare(
        &mut self,
        scene: &Scene<'_>,
        call: &Call,
        from: i32,
        address: u64,
        answer: &Answer,
    ) {
        let cr3 = scene.root.table;
        let Call::Write { fd: to, .. } = *call else {
            return;
        };
        let source = match answer {
            Answer::Content(bytes) => Some(&bytes[..]),
            _ => None,
        };
        let written = sample(scene.memory, scene.root, address);
        let recognised = self.processes.get_mut(cr3).is_some_and(|process| {
            let id = |fd| process.files.get(fd).map(|file| file.id);
            let (Some(source_id), Some(target_id)) = (id(from), id(to)) else {
                return false;
            };
            process
                .copies
                .compared(source_id, target_id, source, &written)
        });
        if recognised {
            self.copy_is_recognised(scene, cr3, from, to);
        }
    }

    pub(super) fn copy_is_recognised(&mut self, scene: &Scene<'_>, cr3: u64, from: i32, to: i32) {
        self.counts.copies += 1;
        // Where the source is has to be said anew when it is read next.
        if !mutant("the source of a copy stays quiet") {
            self.listen_to(scene.window, cr3);
        }
        self.note_down(cr3, format_args!("copy from={from} to={to}"));
    }

    fn learn(&mut self, scene: &Scene<'_>, question: Question, answer: Answer) {
        let cr3 = scene.root.table;
        if let (Question::Pid, Answer::Number(pid)) = (question, &answer) {
            let pid = u32::try_from(*pid).unwrap_or_default();
            self.processes.identify(cr3, pid);
            // One that was killed says nothing. With a child in its memory, it may be there still.
            if self.processes.is_alone(cr3) && !mutant("who is killed may answer for ever") {
                self.counts.abandoned += self.questions.forget_others(cr3, pid) as u64;
            }
            return;
        }
        self.learn_for_report(scene, question, &answer);
        let Some(process) = self.processes.get_mut(cr3) else {
            return;
        };
        match (question, answer) {
            (Question::Pid, _) => process.standing = Standing::LeftAlone,
            (Question::ParentPid, Answer::Number(pid)) => process.parent = u32::try_from(pid).ok(),
            (Question::ParentPid, _) => process.parent = Some(0),
            (Question::Executable, Answer::Text(path)) => process.executable = Some(path),
            (Question::Executable, _) => process.executable = Some(Vec::new()),
            (Question::Stat { fd }, Answer::Stat(stat)) => {
                let executed = process.executed;
                self.file_systems.meet(stat.device);
                process.files.meet(fd, OpenFile::new(Some(stat)), executed);
            }
            (Question::Stat { .. }, Answer::NoDescriptor)
            | (Question::Content { .. } | Question::StatNamed(_) | Question::Room { .. }, _) => {}
            (Question::Stat { fd }, _) => process.files.meet(fd, OpenFile::new(None), false),
            (Question::Path { fd } | Question::Flags { fd } | Question::Offset { fd }, answer) => {
                if let Some(file) = process.files.get_mut(fd) {
                    learn_of_file(file, question, &answer, &self.paths);
                    if let Answer::Text(path) = answer
                        && let Some(hint) = process.opened.take(&path)
                    {
                        file.opened_as = hint;
                        file.located_bytes = 0;
                    }
                }
            }
            (Question::Extents { fd, .. }, answer) => {
                let Some(file) = process.files.get_mut(fd) else {
                    return;
                };
                let extents = match answer {
                    Answer::Extents(extents) => extents,
                    _ => Vec::new(),
                };
                locate(file, &extents, &self.file_systems, &mut self.located);
            }
            (Question::FileSystem { fd }, answer) => {
                let Some(file) = process.files.get_mut(fd) else {
                    return;
                };
                match answer {
                    Answer::FileSystem(said) => self.file_systems.learn(file.id.device, said),
                    // Another process may have more luck.
                    _ => file.located_bytes = u64::MAX,
                }
            }
        }
    }
}

/// Notes where a file is, and how far that is known now.
fn locate(
    file: &mut OpenFile,
    extents: &[FileExtent],
    file_systems: &FileSystems,
    located: &mut Waiting,
) {
    let said = file.read_as.or(file.opened_as);
    let class = said.class;
    let class = class.unwrap_or_else(|| Class::of_file(file.size_bytes));
    let dedup = said.dedup.unwrap_or(if file.copied {
        DedupHint::Prefetch
    } else {
        DedupHint::None
    });
    if let Place::On(on) = file_systems.place(file.id.device) {
        for extent in extents.iter().filter(|extent| extent.located) {
            located.push(Located {
                on,
                range: extent.physical..extent.physical.saturating_add(extent.len),
                class,
                dedup,
            });
        }
    }
    if !extents.is_empty() {
        file.stored = Known::Yes;
    }
    file.located_bytes = match extents.last() {
        Some(extent) if !extent.last => {
            let end = extent.logical.saturating_add(extent.len);
            end.max(file.located_bytes.saturating_add(1))
        }
        _ => u64::MAX,
    };
}

/// Whether files of this path were asked for.
pub(super) fn counts(paths: &[Vec<u8>], path: &[u8]) -> bool {
    paths.is_empty() || paths.iter().any(|prefix| path.starts_with(prefix))
}

fn learn_of_file(file: &mut OpenFile, question: Question, answer: &Answer, paths: &[Vec<u8>]) {
    let known = |so| if so { Known::Yes } else { Known::No };
    match (question, answer) {
        (Question::Path { .. }, Answer::Text(path)) => {
            file.wanted = known(counts(paths, path));
            file.encrypted = known(is_encrypted_name(path));
        }
        (Question::Path { .. }, _) => {
            file.wanted = known(paths.is_empty());
            file.encrypted = Known::No;
        }
        (Question::Flags { .. }, Answer::Number(flags)) => {
            file.appends = known(flags & O_APPEND != 0);
        }
        (Question::Flags { .. }, _) => file.appends = Known::No,
        (Question::Offset { .. }, Answer::Number(offset)) => file.offset = Some(*offset),
        // Nothing is written there that could be met again.
        (Question::Offset { .. }, _) => file.offset = Some(u64::MAX),
        _ => {}
    }
}
