//! Calls about which nothing has to be asked any more, which go on without an exit.
//!
//! The stub notes them, and they are looked at with the next call that exits: what they did is counted
//! as if they had. A descriptor is quiet for reads when its file, its places and its name are known,
//! and for both if it is no file of interest at all. Writes of files are never quiet: what is
//! written is in the process's memory only until then.

use disk::mutant;

use super::super::call::{Call, UserData};
use super::super::file::OpenFile;
use super::super::hint::Hint;
use super::super::paging::Root;
use super::super::process::Standing;
use super::super::stub::process_bit;
use super::super::window::{Note, Quiet, Window};
use super::{Observer, Scene};

impl Observer {
    /// Looks at all that was noted since a call last came here.
    pub(in super::super) fn take_notes(&mut self, scene: &Scene<'_>) {
        for note in scene.window.take_notes() {
            self.take_note(scene, &note);
        }
    }

    fn take_note(&mut self, scene: &Scene<'_>, note: &Note) {
        let root = Root {
            table: Root::new(note.cr3, 0).table,
            five_levels: scene.root.five_levels,
        };
        let scene = Scene {
            root,
            fs_base: &|| None,
            ..*scene
        };
        let cr3 = root.table;
        let call = Call::decode(&note.regs);
        if !self.is_believed(cr3, &call) {
            self.listen_to(scene.window, cr3);
            self.distrust(cr3, &call);
            return;
        }
        self.counts.noted += 1;
        self.note(&scene, cr3, &call);
        self.note_for_report(&scene, cr3, &call);
        self.conclude(&scene, cr3, &call);
        match call {
            Call::Read { fd, .. } | Call::Write { fd, .. } => self.listen(scene.window, cr3, fd),
            Call::Forget { first, .. } => {
                self.listen(scene.window, cr3, first.cast_signed());
            }
            _ => {}
        }
    }

    /// Whether a note is of a process that is known for sure, and of a call that may be noted. It may
    /// be of another that shares the bit of one with quiet descriptors; what that wrote to a file is
    /// not in its memory any more.
    fn is_believed(&self, cr3: u64, call: &Call) -> bool {
        let Some(process) = self.processes.get(cr3) else {
            return false;
        };
        let may_be_noted = match *call {
            Call::Read { .. } | Call::Forget { .. } => true,
            Call::Write { fd, .. } => !process.files.get(fd).is_some_and(OpenFile::counts),
            _ => false,
        };
        may_be_noted && !self.processes.is_doubtful(cr3)
    }

    /// A call was noted that says nothing for sure, and is over: its descriptor may be another file by
    /// now, if the process is still who it was.
    fn distrust(&mut self, cr3: u64, call: &Call) {
        let (first, last) = match *call {
            Call::Read { fd, .. } | Call::Write { fd, .. } => {
                (fd.cast_unsigned(), fd.cast_unsigned())
            }
            Call::Forget { .. } if mutant("what a stranger closes stays known") => return,
            Call::Forget { first, last } => (first, last),
            _ => return,
        };
        if let Some(process) = self.processes.get_mut(cr3) {
            process.forget_descriptors(first, last);
        }
    }

    /// Says which descriptors of a call, whose process waits, have to be looked at after it.
    pub(super) fn settle_quiet(&mut self, scene: &Scene<'_>, cr3: u64, call: &Call) {
        match *call {
            Call::Read { fd, .. }
            | Call::Write { fd, .. }
            | Call::Map { fd }
            | Call::Change { fd }
            | Call::Seek { fd, .. }
            | Call::Truncate { fd, .. } => self.hush(scene.window, cr3, fd),
            Call::Transfer { from, to } => {
                self.hush(scene.window, cr3, from);
                self.hush(scene.window, cr3, to);
            }
            Call::Forget { .. } if mutant("what is replaced stays quiet") => {}
            Call::Forget { first, last } if first == last => {
                self.hush(scene.window, cr3, i32::try_from(first).unwrap_or(-1));
            }
            Call::Forget { .. } => self.listen_to(scene.window, cr3),
            _ => {}
        }
    }

    /// Whether nothing is to be asked about a descriptor.
    fn quiet(&self, cr3: u64, fd: i32) -> Quiet {
        let nothing_known = Quiet::default();
        let Some(process) = self.processes.get(cr3) else {
            return nothing_known;
        };
        let believed = process.standing == Standing::Watched
            && !self.processes.is_doubtful(cr3)
            && !self.processes.shares_bit(cr3);
        match process.files.get(fd) {
            Some(file) if believed && self.asks => Quiet {
                reads: !file.counts() || self.missing(cr3, &next_read(fd)).is_none(),
                writes: !file.counts() || mutant("writes are only noted"),
            },
            _ => nothing_known,
        }
    }

    /// Looks at all descriptors of a process again.
    pub(super) fn listen_to(&mut self, window: &Window, cr3: u64) {
        let bit = process_bit(cr3);
        if self.hushed.remove(&bit) {
            window.hush_nothing(bit);
        }
    }

    /// Page tables are new, or used again: no descriptor is known.
    pub(super) fn listen_to_all(&mut self, window: &Window) {
        if mutant("who is made has the descriptors of another") {
            return;
        }
        for bit in self.hushed.drain() {
            window.hush_nothing(bit);
        }
    }

    fn hush(&mut self, window: &Window, cr3: u64, fd: i32) {
        let quiet = self.quiet(cr3, fd);
        let bit = process_bit(cr3);
        if quiet != Quiet::default() {
            self.hushed.insert(bit);
        }
        if self.hushed.contains(&bit) {
            window.hush(bit, fd, quiet);
        }
        self.listen(window, cr3, fd);
    }

    /// Looks again at a descriptor, and at others of its file, of which a call may have left something
    /// unknown. It makes none quiet: who noted a call is not waiting, and may have closed it, and have
    /// something else there, by now.
    fn listen(&self, window: &Window, cr3: u64, fd: i32) {
        let bit = process_bit(cr3);
        let Some(process) = self
            .processes
            .get(cr3)
            .filter(|_| self.hushed.contains(&bit))
        else {
            return;
        };
        for other in process.files.alike(fd).chain([fd]) {
            window.listen(bit, other, self.quiet(cr3, other));
        }
    }
}

fn next_read(fd: i32) -> Call {
    Call::Read {
        fd,
        data: UserData::One { address: 0, len: 0 },
        at: None,
        hint: Hint::default(),
    }
}
