//! The guest's processes, by their page tables.
//!
//! A process is met at its first call after it was made. It says who it is, and that is believed
//! until the next process is made anywhere in the guest: page tables are used again at once when
//! their process has ended, and one that is killed makes no call that would tell.

use std::collections::{HashMap, HashSet, VecDeque};

use disk::mutant;

use super::copies::Copies;
use super::file::Files;
use super::glob::Glob;
use super::hint::Opened;
use super::stub::process_bit;

/// Processes that are remembered; more are met anew.
const PROCESSES_MAX: usize = 4096;
/// Executables of processes that were not met since.
const EXECUTED_MAX: usize = 1024;
/// So many processes are met before one that inherits from a process that is left alone is taken to
/// have ended.
const HEIR_PATIENCE: u32 = 64;
const HEIRS_MAX: usize = 256;

/// What is done about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is not known yet.
    Unknown,
    /// Its calls are looked at.
    Watched,
    /// It is none of those that were asked for.
    Ignored,
    /// It must not be made to ask anything: it may be killed for a call, or somebody follows its
    /// calls.
    LeftAlone,
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Option<u32>,
    /// The process that made it, where that matters.
    pub(super) parent: Option<u32>,
    /// The path of its executable, as far as it is known.
    pub(super) executable: Option<Vec<u8>>,
    pub(super) standing: Standing,
    /// Whether its program was executed since the hooks are there.
    pub(super) executed: bool,
    pub(super) files: Files,
    /// What it said of files that it opened.
    pub(super) opened: Opened,
    pub(super) copies: Copies,
    /// The pages that were brought in last, so that there is room for questions.
    pub(super) room: Option<u64>,
    /// Whether a child was ever in its memory, as after vfork: who makes a call there may be either.
    pub(super) shared: bool,
    /// How many processes had been made when it last said who it is.
    generation: u64,
}

/// A process to come that inherits from one that is left alone.
#[derive(Debug)]
struct Heir {
    /// Its FS base, which a fork leaves as it is and an execution sets to 0.
    fs_base: u64,
    patience: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Processes {
    by_cr3: HashMap<u64, Process>,
    /// How many of those have each bit of the stub's.
    by_bit: HashMap<u64, u32>,
    /// How many processes were made so far.
    generation: u64,
    /// What processes execute that have not been met since, by number, in the order they did.
    executed: VecDeque<(u32, Vec<u8>)>,
    /// Those that are followed by others, and have not been met since.
    traced: HashSet<u32>,
    heirs: VecDeque<Heir>,
}

impl Process {
    fn new(generation: u64) -> Self {
        Self {
            pid: None,
            parent: None,
            executable: None,
            standing: Standing::Unknown,
            executed: false,
            files: Files::default(),
            opened: Opened::default(),
            room: None,
            copies: Copies::default(),
            shared: false,
            generation,
        }
    }

    /// These descriptors are something else from now on.
    pub(super) fn forget_descriptors(&mut self, first: u32, last: u32) {
        let closed = self.files.ids(first, last);
        self.copies.forget(|file| closed.contains(&file));
        self.files.forget(first, last);
    }

    /// Its descriptors are no more, or are others.
    fn forget_files(&mut self) {
        self.files = Files::default();
        self.opened = Opened::default();
        self.copies = Copies::default();
    }
}

impl Processes {
    /// The process with these page tables, if it was met.
    pub(super) fn get(&self, cr3: u64) -> Option<&Process> {
        self.by_cr3.get(&cr3)
    }

    pub(super) fn get_mut(&mut self, cr3: u64) -> Option<&mut Process> {
        self.by_cr3.get_mut(&cr3)
    }

    /// The process with these page tables, which is met now if it was not yet. `fs_base` tells it
    /// from those that are to be left alone from the start.
    pub(super) fn meet(&mut self, cr3: u64, fs_base: impl FnOnce() -> Option<u64>) -> &mut Process {
        if !self.by_cr3.contains_key(&cr3) {
            let mut process = Process::new(self.generation);
            let inherits = !self.heirs.is_empty() && self.is_heir(fs_base());
            if inherits && !mutant("who is born confined is asked") {
                process.standing = Standing::LeftAlone;
            }
            self.make_room();
            self.by_cr3.insert(cr3, process);
            *self.by_bit.entry(process_bit(cr3)).or_default() += 1;
        }
        let generation = self.generation;
        self.by_cr3
            .entry(cr3)
            .or_insert_with(|| Process::new(generation))
    }

    /// Whether who makes calls with these page tables is their process for sure, and no child in its
    /// memory.
    pub(super) fn is_alone(&self, cr3: u64) -> bool {
        self.by_cr3.get(&cr3).is_some_and(|process| !process.shared)
    }

    /// Whether the stub cannot tell this process from another.
    pub(super) fn shares_bit(&self, cr3: u64) -> bool {
        let count = self.by_bit.get(&process_bit(cr3));
        count.is_some_and(|count| *count > 1) && !mutant("who shares a bit has quiet descriptors")
    }

    /// Whether it must say who it is before anything is believed of it.
    pub(super) fn is_doubtful(&self, cr3: u64) -> bool {
        self.by_cr3.get(&cr3).is_some_and(|process| {
            let may_be_another = process.generation != self.generation
                && !mutant("page tables stay with their process");
            process.standing != Standing::LeftAlone && (process.pid.is_none() || may_be_another)
        })
    }

    /// The process said who it is.
    pub(super) fn identify(&mut self, cr3: u64, pid: u32) {
        let generation = self.generation;
        let executed = self.take_executed(pid);
        let traced = self.traced.remove(&pid);
        let Some(process) = self.by_cr3.get_mut(&cr3) else {
            return;
        };
        if process.pid != Some(pid) || executed.is_some() {
            let shared = process.shared;
            *process = Process::new(generation);
            process.shared = shared;
        }
        process.pid = Some(pid);
        process.generation = generation;
        process.executed |= executed.is_some();
        process.executable = executed.or_else(|| process.executable.take());
        if traced {
            process.standing = Standing::LeftAlone;
        }
    }

    /// Decides what is done about a process, now that it is known what it executes and who made it.
    pub(super) fn judge(&mut self, cr3: u64, globs: &[Glob]) -> Standing {
        let Some(process) = self.by_cr3.get(&cr3) else {
            return Standing::Unknown;
        };
        let executable = process.executable.as_deref().unwrap_or_default();
        let meant = globs.is_empty() || globs.iter().any(|glob| glob.matches(executable));
        let inherits = || {
            let parent = process.parent?;
            self.by_pid(parent).map(|parent| parent.standing)
        };
        let standing = if meant || inherits() == Some(Standing::Watched) {
            Standing::Watched
        } else {
            Standing::Ignored
        };
        if let Some(process) = self.by_cr3.get_mut(&cr3) {
            process.standing = standing;
        }
        standing
    }

    /// A process is about to make another, which is met soon; `in_its_memory` if that begins there.
    pub(super) fn forks(
        &mut self,
        cr3: u64,
        in_its_memory: bool,
        fs_base: impl FnOnce() -> Option<u64>,
    ) {
        self.generation += 1;
        let Some(process) = self.by_cr3.get_mut(&cr3) else {
            return;
        };
        process.shared |= in_its_memory;
        process.files.forget_offsets();
        if process.standing == Standing::LeftAlone {
            self.expect_heir(fs_base().unwrap_or_default());
        }
    }

    /// A process is about to become another executable, in new page tables.
    pub(super) fn executes(&mut self, cr3: u64, path: Vec<u8>) {
        self.generation += 1;
        let Some(process) = self.by_cr3.get_mut(&cr3) else {
            return;
        };
        process.forget_files();
        if process.standing == Standing::LeftAlone {
            self.expect_heir(0);
        } else if let Some(pid) = process.pid.take() {
            // Whoever has these page tables afterwards says so: the same, if it comes to nothing.
            self.take_executed(pid);
            if self.executed.len() >= EXECUTED_MAX {
                self.executed.pop_front();
            }
            self.executed.push_back((pid, path));
        }
    }

    /// A process is about to end.
    pub(super) fn ends(&mut self, cr3: u64) {
        match self.by_cr3.get_mut(&cr3) {
            // Its parent may go on there, and says so.
            Some(process) if process.shared => {
                process.forget_files();
                process.pid = None;
            }
            _ => self.remove(cr3),
        }
    }

    /// The process of this number is followed from now on by one with this FS base; returns its page
    /// tables, if it was met. One that was not is most likely a fork of its follower.
    pub(super) fn is_traced(
        &mut self,
        pid: u32,
        fs_base: impl FnOnce() -> Option<u64>,
    ) -> Option<u64> {
        let met = self
            .by_cr3
            .iter()
            .find_map(|(&cr3, process)| (process.pid == Some(pid)).then_some(cr3));
        if met.is_none() {
            if self.traced.len() < EXECUTED_MAX {
                self.traced.insert(pid);
            }
            self.expect_heir(fs_base().unwrap_or_default());
        }
        met
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Those that were met.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Process)> {
        self.by_cr3.iter().map(|(&cr3, process)| (cr3, process))
    }

    fn by_pid(&self, pid: u32) -> Option<&Process> {
        self.by_cr3
            .values()
            .find(|process| process.pid == Some(pid))
    }

    fn take_executed(&mut self, pid: u32) -> Option<Vec<u8>> {
        let at = self
            .executed
            .iter()
            .position(|(number, _)| *number == pid)?;
        self.executed.remove(at).map(|(_, path)| path)
    }

    fn expect_heir(&mut self, fs_base: u64) {
        if self.heirs.len() >= HEIRS_MAX {
            self.heirs.pop_front();
        }
        self.heirs.push_back(Heir {
            fs_base,
            patience: HEIR_PATIENCE,
        });
    }

    /// Whether a process that is met may be one that inherits; it is taken for one if in doubt.
    fn is_heir(&mut self, fs_base: Option<u64>) -> bool {
        let inherits = self
            .heirs
            .iter()
            .any(|heir| fs_base.is_none_or(|base| base == heir.fs_base));
        for heir in &mut self.heirs {
            heir.patience -= 1;
        }
        self.heirs.retain(|heir| heir.patience > 0);
        inherits
    }

    fn make_room(&mut self) {
        if self.by_cr3.len() < PROCESSES_MAX {
            return;
        }
        let dispensable = self
            .by_cr3
            .iter()
            .filter(|(_, process)| process.standing != Standing::LeftAlone)
            .min_by_key(|(_, process)| process.generation)
            .or_else(|| self.by_cr3.iter().next())
            .map(|(&cr3, _)| cr3);
        if let Some(cr3) = dispensable {
            self.remove(cr3);
        }
    }

    fn remove(&mut self, cr3: u64) {
        let bit = process_bit(cr3);
        if self.by_cr3.remove(&cr3).is_some()
            && let Some(count) = self.by_bit.get_mut(&bit)
        {
            *count -= 1;
            if *count == 0 {
                self.by_bit.remove(&bit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = 0x1000;
    const SECOND: u64 = 0x5000;

    fn met(processes: &mut Processes, cr3: u64, pid: u32) {
        processes.meet(cr3, || Some(1));
        processes.identify(cr3, pid);
    }

    #[test]
    fn an_executable_is_known_by_what_was_executed_and_its_children_with_it() {
        let globs = [Glob::new("gpg")];
        let mut processes = Processes::default();
        met(&mut processes, FIRST, 10);
        assert_eq!(processes.judge(FIRST, &globs), Standing::Ignored);
        processes.executes(FIRST, b"/usr/bin/gpg".to_vec());
        met(&mut processes, SECOND, 10);
        assert_eq!(processes.judge(SECOND, &globs), Standing::Watched);
        processes.forks(SECOND, false, || Some(1));
        met(&mut processes, 0x9000, 11);
        processes.get_mut(0x9000).unwrap().parent = Some(10);
        assert_eq!(processes.judge(0x9000, &globs), Standing::Watched);
    }

    #[test]
    fn page_tables_that_are_used_again_are_another_process() {
        let mut processes = Processes::default();
        met(&mut processes, FIRST, 10);
        processes.judge(FIRST, &[]);
        assert!(!processes.is_doubtful(FIRST));
        processes.forks(SECOND, false, || None);
        assert!(processes.is_doubtful(FIRST));
        processes.identify(FIRST, 10);
        assert_eq!(processes.get(FIRST).unwrap().standing, Standing::Watched);
        processes.forks(SECOND, false, || None);
        processes.identify(FIRST, 12);
        assert_eq!(processes.get(FIRST).unwrap().standing, Standing::Unknown);
    }

    #[test]
    fn whoever_inherits_from_a_process_that_is_left_alone_is_left_alone() {
        let mut processes = Processes::default();
        met(&mut processes, FIRST, 10);
        processes.get_mut(FIRST).unwrap().standing = Standing::LeftAlone;
        processes.forks(FIRST, false, || Some(0x7000));
        assert_eq!(
            processes.meet(0x9000, || Some(0x8000)).standing,
            Standing::Unknown
        );
        assert_eq!(
            processes.meet(SECOND, || Some(0x7000)).standing,
            Standing::LeftAlone
        );
        assert!(!processes.is_doubtful(SECOND));
        processes.executes(SECOND, b"/bin/true".to_vec());
        assert_eq!(
            processes.meet(0xd000, || Some(0)).standing,
            Standing::LeftAlone
        );
        assert_eq!(
            processes.meet(0xf000, || None).standing,
            Standing::LeftAlone
        );
    }

    #[test]
    fn memory_that_a_child_may_be_in_keeps_its_process() {
        let mut processes = Processes::default();
        met(&mut processes, FIRST, 10);
        processes.forks(FIRST, true, || None);
        processes.identify(FIRST, 11);
        met(&mut processes, SECOND, 12);
        processes.ends(FIRST);
        assert!(processes.get(FIRST).is_some_and(|process| process.shared));
        assert!(processes.is_doubtful(FIRST));
        assert!(!processes.is_doubtful(SECOND), "others are who they were");
    }

    #[test]
    fn a_process_that_is_followed_before_it_was_met_is_left_alone() {
        let mut processes = Processes::default();
        assert_eq!(processes.is_traced(10, || Some(0x7000)), None);
        met(&mut processes, FIRST, 10);
        assert_eq!(processes.get(FIRST).unwrap().standing, Standing::LeftAlone);
        assert_eq!(processes.is_traced(10, || None), Some(FIRST));
        let fork = processes.meet(SECOND, || Some(0x7000));
        assert_eq!(fork.standing, Standing::LeftAlone);
    }

    #[test]
    fn who_shares_a_bit_does_so_until_there_is_one_left() {
        let mut processes = Processes::default();
        let other = (2..1 << 20)
            .map(|number| number << 13)
            .find(|&cr3| process_bit(cr3) == process_bit(FIRST))
            .unwrap();
        for (cr3, number) in [(FIRST, 10), (other, 11), (SECOND, 12)] {
            met(&mut processes, cr3, number);
        }
        let share = |processes: &Processes| [FIRST, other].map(|cr3| processes.shares_bit(cr3));
        assert_eq!(share(&processes), [true; 2]);
        assert!(!processes.shares_bit(SECOND));
        processes.ends(other);
        processes.ends(other);
        assert_eq!(share(&processes), [false; 2]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut processes = Processes::default();
        for number in 0..6_000 {
            let cr3 = u64::from(number) << 13;
            met(&mut processes, cr3, number);
            processes.executes(cr3, vec![b'x'; 10]);
            processes.is_traced(number + 1_000_000, || Some(2));
        }
        assert!(processes.by_cr3.len() <= PROCESSES_MAX);
        assert!(processes.by_bit.len() <= PROCESSES_MAX);
        assert!(processes.executed.len() <= EXECUTED_MAX && processes.traced.len() <= EXECUTED_MAX);
    }
}
