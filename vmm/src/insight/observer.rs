//! What is concluded from the calls of a guest's processes, and what is asked for that.
//!
//! A call is considered as often as it takes: what is missing is asked, and when the answer is
//! there, the same call is considered again. Every answer, a refusal too, makes one thing known, so
//! that there is an end.

mod learning;
mod missing;
mod quiet;
mod reporting;

use std::collections::HashSet;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex};
use std::{fmt, mem};

use disk::{Class, DedupHint, mutant};
use kvm_bindings::kvm_regs;

use super::call::{
    ALWAYS, CLOSES, Call, CloneFlags, LAST_WORDS, Made, READS, UserData, WATCHED, WRITES,
};
use super::content::{Contents, Written};
use super::file::Known;
use super::file_systems::FileSystems;
use super::fingerprints::{Fingerprinter, Mark};
use super::glob::Glob;
use super::hint::{Hint, MAGIC};
use super::located::Waiting;
use super::lock;
use super::log::Log;
use super::options::Options;
use super::paging::{Memory, Root};
use super::pending::{Pending, PendingQuestions};
use super::process::{Process, Processes, Standing};
use super::question::{Answer, Question};
use super::report::Report;
use super::scratch::{Scratch, Taken};
use super::stub::process_bit;
use super::uniqueness::is_encryptor;
use super::window::Window;
use reporting::Target;

/// How often a question is asked again whose answer was overwritten.
const TRIES_MAX: u32 = 3;
/// Questions that a single call may lead to.
const QUESTIONS_MAX: u32 = 16;
const PATH_MAX: usize = 512;

/// What the observer needs for one call.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) memory: Memory<'a>,
    pub(super) window: &'a Window,
    /// The page tables of the process.
    pub(super) root: Root,
    /// Its FS base, which takes a moment to find out.
    pub(super) fs_base: &'a dyn Fn() -> Option<u64>,
    /// The time, on a clock that never goes back.
    pub(super) now_ms: u64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct InsightCounts {
    /// Calls of processes that came here.
    pub(crate) calls: u64,
    /// Calls of processes that went on, and were noted.
    pub(crate) noted: u64,
    /// Insight-calls that were made, and those that came back.
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    /// Answers that a signal handler overwrote; they were asked for again.
    pub(crate) overwritten: u64,
    /// Processes that ended with a question open.
    pub(crate) abandoned: u64,
    /// Calls that looked like an insight-call that comes back, and were not.
    pub(crate) strangers: u64,
    /// Copies of files that were recognised.
    pub(crate) copies: u64,
    /// Files that were written and taken for what is nowhere else: encrypted, or like it.
    pub(crate) unique_files: u64,
}

impl AddAssign for InsightCounts {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.noted += other.noted;
        self.asked += other.asked;
        self.answered += other.answered;
        self.overwritten += other.overwritten;
        self.abandoned += other.abandoned;
        self.strangers += other.strangers;
        self.copies += other.copies;
        self.unique_files += other.unique_files;
    }
}

/// What is known.
pub(super) struct Observer {
    globs: Vec<Glob>,
    paths: Vec<Vec<u8>>,
    log: Option<Arc<Mutex<Log>>>,
    /// Whether anybody wants to know what is alike elsewhere, which takes questions of its own.
    looks_for_alike: bool,
    nonce: u64,
    /// Whether anything is asked; not while the hooks are about to be taken away.
    asks: bool,
    processes: Processes,
    /// The bits of processes with descriptors that are quiet.
    hushed: HashSet<u64>,
    questions: PendingQuestions,
    file_systems: FileSystems,
    pub(super) contents: Contents,
    pub(super) located: Waiting,
    pub(super) report: Report,
    target: Target,
    pub(super) counts: InsightCounts,
}

impl Observer {
    pub(super) fn new(
        options: &Options,
        log: Option<Arc<Mutex<Log>>>,
        looks_for_alike: bool,
        nonce: u64,
        fingerprinter: Fingerprinter,
    ) -> Self {
        Self {
            globs: options.processes.clone(),
            paths: options
                .paths
                .iter()
                .map(|path| path.clone().into_bytes())
                .collect(),
            log,
            looks_for_alike,
            nonce,
            asks: false,
            processes: Processes::default(),
            hushed: HashSet::new(),
            questions: PendingQuestions::default(),
            file_systems: FileSystems::default(),
            contents: Contents::new(fingerprinter),
            located: Waiting::default(),
            report: Report::default(),
            target: Target::default(),
            counts: InsightCounts::default(),
        }
    }

    /// Begins to look at calls, or ends it: then only answers are still waited for.
    pub(super) fn set(&mut self, window: &Window, on: bool) {
        self.asks = on;
        window.set_marks(self.nonce, MAGIC);
        if on {
            self.meet_all(window);
            window.set_kinds(&READS, &WRITES, &CLOSES);
            window.set_calls(&ALWAYS, &WATCHED);
        } else {
            window.set_calls(&LAST_WORDS, &[]);
        }
    }

    /// Processes may be others than those that were known.
    pub(super) fn meet_all(&mut self, window: &Window) {
        self.processes.clear();
        self.file_systems.clear();
        self.listen_to_all(window);
        window.watch_all(true);
    }

    /// What is known of a content that reaches the disk.
    pub(super) fn find(&mut self, hash: u64) -> Option<Mark> {
        let mut mark = self.contents.find(hash)?;
        // A file that is written piece by piece was smaller when it was written here.
        if mark.by_size
            && !mutant("a file stays as small as it was")
            && let Some(size_bytes) = self.report.size_bytes(mark.file)
        {
            mark.class = mark.class.min(Class::of_file(size_bytes));
        }
        Some(mark)
    }

    /// Whether nothing stands in the way of taking the hooks away.
    pub(super) fn is_idle(&self) -> bool {
        !self.asks && self.questions.is_empty()
    }

    /// A call is at the stub. Whether its registers have changed.
    pub(super) fn call(&mut self, scene: &Scene<'_>, regs: &mut kvm_regs) -> bool {
        if regs.r8 == self.nonce {
            if let Some(pending) = self.questions.remove(scene.root.table, regs) {
                self.counts.answered += 1;
                self.answered(scene, pending, regs);
                return true;
            }
            // A signal handler's, or somebody plays with our number. It is their own call.
            self.counts.strangers += u64::from(!self.questions.contains(regs.r9));
        }
        self.counts.calls += 1;
        let call = *regs;
        self.consider(scene, &call, 0, regs)
    }

    /// An insight-call came back: the process goes on with its own call, or with another question.
    fn answered(&mut self, scene: &Scene<'_>, mut pending: Pending, regs: &mut kvm_regs) {
        let returned = regs.rax;
        let call = pending.call;
        *regs = kvm_regs {
            rip: regs.rip,
            rsp: regs.rsp,
            rcx: regs.rcx,
            r11: regs.r11,
            rflags: regs.rflags,
            ..call
        };
        let taken = match pending.scratch.take() {
            Some(scratch) => scratch.take(scene.memory),
            None => Taken::Whole(Vec::new()),
        };
        let answer = match taken {
            Taken::Whole(bytes) => pending.question.answer(returned, &bytes),
            Taken::Overwritten => {
                self.counts.overwritten += 1;
                let tries = pending.tries + 1;
                if tries <= TRIES_MAX
                    && self.ask(scene, pending.question, &call, pending.asked, tries, regs)
                {
                    return;
                }
                Answer::Refused
            }
        };
        let asked = match answer {
            // The call will fail; the next may be of a file that was opened meanwhile.
            Answer::NoDescriptor => QUESTIONS_MAX,
            _ => pending.asked,
        };
        self.take_answer(scene, &Call::decode(&call), pending.question, answer);
        self.consider(scene, &call, asked, regs);
    }

    /// Asks what is missing to understand a call, or else draws its conclusions. Whether the
    /// registers have changed.
    fn consider(
        &mut self,
        scene: &Scene<'_>,
        regs: &kvm_regs,
        asked: u32,
        out: &mut kvm_regs,
    ) -> bool {
        let call = Call::decode(regs);
        let cr3 = scene.root.table;
        self.processes.meet(cr3, scene.fs_base);
        if self.processes.shares_bit(cr3) {
            self.listen_to(scene.window, cr3);
        }
        self.note(scene, cr3, &call);
        if self.asks
            && asked < QUESTIONS_MAX
            && let Some(question) = self.missing(cr3, &call)
        {
            if self.ask(scene, question, regs, asked + 1, 0, out) {
                return true;
            }
            // What cannot be asked here is not asked for again.
            if question != Question::Pid {
                self.take_answer(scene, &call, question, Answer::Refused);
            }
        }
        self.settle_standing(scene, cr3);
        self.note_for_report(scene, cr3, &call);
        self.conclude(scene, cr3, &call);
        self.settle_quiet(scene, cr3, &call);
        false
    }

    fn ask(
        &mut self,
        scene: &Scene<'_>,
        question: Question,
        call: &kvm_regs,
        asked: u32,
        tries: u32,
        out: &mut kvm_regs,
    ) -> bool {
        // By the time of the answer, the file that the call names may be another.
        self.target = Target::NotAsked;
        if !self.questions.has_room() {
            return false;
        }
        let serial = self.questions.next_serial();
        let scratch = if question.scratch_bytes() == 0 {
            None
        } else {
            let seed = (self.nonce ^ serial).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let content = question.scratch();
            match Scratch::place(scene.memory, scene.root, call.rsp, &content, seed) {
                Some(scratch) => Some(scratch),
                None => return self.ask_for_room(scene, call, asked, out),
            }
        };
        let address = scratch.as_ref().map_or(0, Scratch::address);
        *out = kvm_regs {
            rip: out.rip,
            rsp: out.rsp,
            r11: out.r11,
            rflags: out.rflags,
            ..question.registers(call, address, self.nonce, serial)
        };
        let process = self.processes.get(scene.root.table);
        let pending = Pending {
            question,
            cr3: scene.root.table,
            // Who is asked for its number may be another than who had these page tables.
            pid: process
                .and_then(|process| process.pid)
                .filter(|_| question != Question::Pid),
            call: *call,
            scratch,
            asked,
            tries,
        };
        self.questions.insert(serial, pending);
        self.counts.asked += 1;
        true
    }

    /// A question finds no room on the stack, perhaps because the process has not used that much of it
    /// yet: has the kernel bring it in, once for each place.
    fn ask_for_room(
        &mut self,
        scene: &Scene<'_>,
        call: &kvm_regs,
        asked: u32,
        out: &mut kvm_regs,
    ) -> bool {
        let (Some((address, bytes)), Some(process)) = (
            Scratch::pages(call.rsp),
            self.processes.get_mut(scene.root.table),
        ) else {
            return false;
        };
        if process.room.replace(address) == Some(address) {
            return false;
        }
        let room = Question::Room { address, bytes };
        self.ask(scene, room, call, asked, 0, out)
    }

    /// Takes from a call what decides what is to be asked about it.
    fn note(&mut self, scene: &Scene<'_>, cr3: u64, call: &Call) {
        let Some(process) = self.processes.get_mut(cr3) else {
            return;
        };
        process.copies.look_away();
        match *call {
            Call::Read { fd, hint, .. } => note_source(process, fd, hint),
            Call::Write { fd, data, .. } => {
                if let Some(file) = process.files.get(fd).filter(|file| file.counts()) {
                    process
                        .copies
                        .writes(scene.memory, scene.root, file.id, data);
                }
            }
            Call::Transfer { from, to } => {
                let end = |fd| Some((process.files.get(fd)?.id, process.files.get(fd)?.counts()));
                let recognised = match (end(from), end(to)) {
                    (Some(source), Some(target)) => process.copies.transfers(source, target),
                    _ => false,
                };
                note_source(process, from, Hint::default());
                if recognised {
                    self.copy_is_recognised(scene, cr3, from, to);
                }
            }
            _ => {}
        }
    }

    /// Has the stub look away from processes that are of no interest.
    fn settle_standing(&mut self, scene: &Scene<'_>, cr3: u64) {
        let Some(process) = self.processes.get(cr3) else {
            return;
        };
        let mut standing = process.standing;
        if standing == Standing::Unknown && process.pid.is_some() {
            standing = self.processes.judge(cr3, &self.globs);
        }
        if matches!(standing, Standing::Ignored | Standing::LeftAlone) {
            let bit = process_bit(cr3);
            let shared = self.processes.iter().any(|(other, process)| {
                process_bit(other) == bit && process.standing == Standing::Watched
            });
            if !shared {
                scene.window.watch(bit, false);
            }
        }
    }

    fn conclude(&mut self, scene: &Scene<'_>, cr3: u64, call: &Call) {
        // Others are looked at for what their numbers may mean, such as opens.
        if *call != Call::Other {
            self.note_down(cr3, call);
        }
        match *call {
            Call::Execute { path } => self.executes(scene, cr3, path),
            Call::Clone { flags } => self.clones(scene, cr3, flags),
            Call::Exit => {
                self.answers_no_more(cr3);
                self.processes.ends(cr3);
                self.listen_to(scene.window, cr3);
                scene.window.watch(process_bit(cr3), true);
            }
            Call::Confine | Call::Trace { pid: None } => self.leave_alone(cr3),
            Call::Trace { pid: Some(pid) } => {
                if let Some(traced) = self.processes.is_traced(pid, scene.fs_base) {
                    self.leave_alone(traced);
                }
            }
            _ => self.conclude_of_file(scene, cr3, call),
        }
    }

    /// A line for the log, if there is one.
    fn note_down(&self, cr3: u64, what: impl fmt::Display) {
        if let (Some(log), Some(process)) = (&self.log, self.processes.get(cr3))
            && process.standing != Standing::Ignored
        {
            lock(log).note(process, what);
        }
    }

    fn leave_alone(&mut self, cr3: u64) {
        if let Some(process) = self.processes.get_mut(cr3) {
            process.standing = Standing::LeftAlone;
        }
    }

    fn clones(&mut self, scene: &Scene<'_>, cr3: u64, flags: CloneFlags) {
        let flags = match flags {
            CloneFlags::Are(flags) => flags,
            CloneFlags::At(address) => {
                let mut word = [0; 8];
                scene.memory.read_user(scene.root, address, &mut word);
                u64::from_le_bytes(word)
            }
        };
        let made = Made::by(flags);
        if made != Made::Thread {
            let in_its_memory = made == Made::Guest;
            self.processes.forks(cr3, in_its_memory, scene.fs_base);
            self.look_at_all(scene.window);
        }
    }

    /// The threads of a process end, and with them what they were asked. Where a child may be in the
    /// memory of its parent, it is not known whose threads those are.
    fn answers_no_more(&mut self, cr3: u64) {
        if self.processes.is_alone(cr3) {
            self.counts.abandoned += self.questions.forget(cr3) as u64;
        }
    }

    fn executes(&mut self, scene: &Scene<'_>, cr3: u64, path: u64) {
        let path = scene.memory.read_user_text(scene.root, path, PATH_MAX);
        self.answers_no_more(cr3);
        self.processes.executes(cr3, path.unwrap_or_default());
        self.look_at_all(scene.window);
    }

    /// Page tables that are new, or used again, are to be met, whoever had them before.
    fn look_at_all(&mut self, window: &Window) {
        self.listen_to_all(window);
        if self.asks {
            window.watch_all(true);
        }
    }

    fn conclude_of_file(&mut self, scene: &Scene<'_>, cr3: u64, call: &Call) {
        let Some(process) = self.processes.get_mut(cr3) else {
            return;
        };
        if process.standing != Standing::Watched {
            return;
        }
        match *call {
            Call::Open { path, hint } => opens(scene, process, path, hint),
            Call::Write { .. } => self.writes(scene, cr3, call),
            Call::Change { fd } => {
                if let Some(file) = process.files.get_mut(fd) {
                    file.moved(None);
                    file.appends = Known::NotYet;
                }
            }
            Call::Seek { fd, to } => process.files.seek(fd, to),
            Call::Truncate { fd, size_bytes } => {
                if let Some(file) = process.files.get_mut(fd) {
                    file.size_bytes = size_bytes;
                }
            }
            Call::Read { fd, data, at, .. } => {
                let Some(file) = process.files.get_mut(fd) else {
                    return;
                };
                if at.is_none() {
                    file.offset = None;
                }
                if file.counts() && file.stored == Known::Yes {
                    let source = (fd, file.id);
                    process
                        .copies
                        .reads(scene.memory, scene.root, source, data, at);
                }
            }
            Call::Transfer { from, to } => {
                for fd in [from, to] {
                    if let Some(file) = process.files.get_mut(fd) {
                        file.moved(None);
                    }
                }
            }
            Call::Forget { first, last } if !mutant("what is closed stays known") => {
                process.forget_descriptors(first, last);
            }
            _ => {}
        }
    }

    fn writes(&mut self, scene: &Scene<'_>, cr3: u64, call: &Call) {
        let (&Call::Write { fd, data, at, hint }, Some(process)) =
            (call, self.processes.get_mut(cr3))
        else {
            return;
        };
        let dedup = dedup_of_write(scene, process, fd, data, hint);
        let Some(file) = process.files.get_mut(fd).filter(|file| file.counts()) else {
            return;
        };
        let unique = dedup == DedupHint::NoDedup && !mem::replace(&mut file.unique, true);
        let start = at.or(file.write_start());
        let written = start.map(|start| Written {
            file: file.id,
            size_bytes: file.size_bytes,
            start,
            data,
            class: hint.or(file.opened_as).class,
            dedup,
        });
        if let Some(written) = written {
            let end = self.contents.write(scene.memory, scene.root, &written);
            process.files.wrote(fd, end, at.is_none());
        }
        if unique {
            self.counts.unique_files += 1;
            self.note_down(cr3, format_args!("unique fd={fd}"));
        }
    }
}

/// A process opens a file, and says what its data is.
fn opens(scene: &Scene<'_>, process: &mut Process, path: u64, hint: Hint) {
    let path = scene.memory.read_user_text(scene.root, path, PATH_MAX);
    if let Some(path) = path.filter(|path| path.len() < PATH_MAX) {
        process.opened.push(path, hint);
    }
}

/// A process reads a file, and says so of it: if that is something else than before, or if the file is
/// being copied now, its places are to be said anew.
fn note_source(process: &mut Process, fd: i32, hint: Hint) {
    let Some(file) = process.files.get_mut(fd) else {
        return;
    };
    let said = if hint == Hint::default() {
        file.read_as
    } else {
        hint
    };
    let copied = process.copies.has_source(file.id);
    if (said, copied) != (file.read_as, file.copied) {
        (file.read_as, file.copied) = (said, copied);
        file.located_bytes = 0;
    }
}

/// Whether data like that which a process writes is elsewhere: as the application says; or it is
/// copied, whatever it looks like; or it is encrypted, by who writes it, its name or its look.
fn dedup_of_write(
    scene: &Scene<'_>,
    process: &mut Process,
    fd: i32,
    data: UserData,
    hint: Hint,
) -> DedupHint {
    let Some(file) = process.files.get_mut(fd).filter(|file| file.counts()) else {
        return DedupHint::None;
    };
    let copied = process.copies.wrote(file.id);
    if let Some(said) = hint.or(file.opened_as).dedup {
        return said;
    }
    if copied {
        return DedupHint::Prefetch;
    }
    if file.encrypted != Known::Yes {
        file.randomness.look(scene.memory, scene.root, data);
    }
    let encryptor = process.executable.as_deref().is_some_and(is_encryptor);
    // A program that encrypts decrypts too.
    let encrypts = encryptor && !file.randomness.is_plain();
    if file.encrypted == Known::Yes || encrypts || file.randomness.is_random() {
        DedupHint::NoDedup
    } else {
        DedupHint::None
    }
}

#[cfg(test)]
mod tests;
