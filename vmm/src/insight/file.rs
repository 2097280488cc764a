//! What a process's descriptors stand for.

use std::collections::{HashMap, HashSet};

use disk::mutant;

use super::fingerprints::FileId;
use super::hint::Hint;
use super::question::Stat;
use super::uniqueness::Randomness;

/// Descriptors of one process that are remembered; more are asked for again.
const FILES_MAX: usize = 1024;
/// After so many calls through a descriptor, what was concluded from them is asked for again:
/// another process may share it, and a call may do less than it was asked for.
const AGE_MAX: u32 = 64;
const MODE_KIND: u32 = 0o170_000;
const MODE_REGULAR: u32 = 0o100_000;

/// Whether something is so, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Known {
    #[default]
    NotYet,
    Yes,
    No,
}

/// A descriptor's file.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    pub(super) id: FileId,
    pub(super) size_bytes: u64,
    /// Whether it is a regular file, whose content is on a disk.
    pub(super) regular: bool,
    /// Whether its path is one that counts.
    pub(super) wanted: Known,
    /// Whether every write goes to its end.
    pub(super) appends: Known,
    /// Whether its path says that it is encrypted.
    pub(super) encrypted: Known,
    /// What the application said when it opened it, and last, reading.
    pub(super) opened_as: Hint,
    pub(super) read_as: Hint,
    /// Whether it was being copied when its places were asked for.
    pub(super) copied: bool,
    pub(super) randomness: Randomness,
    /// Whether it was counted as a file whose content is nowhere else.
    pub(super) unique: bool,
    /// Where the descriptor stands.
    pub(super) offset: Option<u64>,
    /// Whether it has places on a disk, so that what is read is there still. Files of `/proc` and
    /// tracefs have none; some give each byte once.
    pub(super) stored: Known,
    /// Where it stands if each read did all that it was asked for, and began at the start: good
    /// enough to count by.
    presumed: Option<u64>,
    /// How far the file's places on the disk are known, as far as there is anything.
    pub(super) located_bytes: u64,
    age: u32,
}

impl OpenFile {
    /// What the kernel said of it; nothing if it refused.
    pub(super) fn new(stat: Option<Stat>) -> Self {
        Self {
            id: stat.map_or_else(FileId::default, |stat| FileId {
                device: stat.device,
                inode: stat.inode,
            }),
            size_bytes: stat.map_or(0, |stat| stat.size_bytes),
            regular: stat.is_some_and(|stat| stat.mode & MODE_KIND == MODE_REGULAR),
            wanted: Known::NotYet,
            appends: Known::NotYet,
            encrypted: Known::NotYet,
            opened_as: Hint::default(),
            read_as: Hint::default(),
            copied: false,
            randomness: Randomness::default(),
            unique: false,
            offset: None,
            stored: Known::NotYet,
            presumed: None,
            located_bytes: 0,
            age: 0,
        }
    }

    /// Whether its content is of interest.
    pub(super) fn counts(&self) -> bool {
        self.regular && self.wanted != Known::No
    }

    /// Whether a write that names no position goes to the end for sure, however it was opened. The
    /// file has `size_bytes` at least.
    pub(super) fn stands_at_end(&self, size_bytes: u64) -> bool {
        self.offset == Some(self.size_bytes.max(size_bytes))
    }

    /// Where the descriptor most likely stands, as far as anything is known of that.
    pub(super) fn position(&self) -> Option<u64> {
        self.offset.or(self.presumed)
    }

    /// Where a write begins that names no position.
    pub(super) fn write_start(&self) -> Option<u64> {
        if self.appends == Known::Yes {
            Some(self.size_bytes)
        } else {
            self.offset
        }
    }

    /// The descriptor stands somewhere else now: at `to`, if that is known.
    pub(super) fn moved(&mut self, to: Option<u64>) {
        self.offset = None;
        self.presumed = to;
    }

    /// A call through the descriptor wrote up to `end`, and it stands there now, if it moved.
    fn wrote_to(&mut self, end: u64, moved: bool) {
        self.size_bytes = self.size_bytes.max(end);
        self.age += 1;
        if moved {
            self.presumed = None;
            self.offset = (self.age < AGE_MAX).then_some(end);
        }
        if self.age >= AGE_MAX {
            self.age = 0;
        }
    }
}

/// The descriptors of a process, as they are met.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: HashMap<i32, OpenFile>,
    /// Those that were moved before they were met.
    moved: HashSet<i32>,
}

impl Files {
    pub(super) fn get(&self, fd: i32) -> Option<&OpenFile> {
        self.files.get(&fd)
    }

    pub(super) fn get_mut(&mut self, fd: i32) -> Option<&mut OpenFile> {
        self.files.get_mut(&fd)
    }

    /// A descriptor is met, of a process that has `executed` its program since the hooks are there:
    /// all but the first three were most likely opened by itself.
    pub(super) fn meet(&mut self, fd: i32, mut file: OpenFile, executed: bool) {
        if !self.moved.remove(&fd) || mutant("who was moved stands at the start") {
            // Nobody has been there who could stand behind it.
            file.offset = (file.regular && file.size_bytes == 0).then_some(0);
            file.presumed = (executed && fd > libc::STDERR_FILENO).then_some(0);
        }
        if self.files.len() >= FILES_MAX {
            self.files.clear();
        }
        self.files.insert(fd, file);
    }

    /// A descriptor stands somewhere else now: at `to`, if that is known.
    pub(super) fn seek(&mut self, fd: i32, to: Option<u64>) {
        if let Some(file) = self.files.get_mut(&fd) {
            file.moved(to);
            self.others_moved(fd);
        } else if self.moved.len() < FILES_MAX {
            self.moved.insert(fd);
        }
    }

    /// The files of these descriptors.
    pub(super) fn ids(&self, first: u32, last: u32) -> Vec<FileId> {
        let meant = |fd: i32| u32::try_from(fd).is_ok_and(|fd| (first..=last).contains(&fd));
        let files = self.files.iter().filter(|&(&fd, _)| meant(fd));
        files.map(|(_, file)| file.id).collect()
    }

    /// The descriptors that stand for the same file as this one, and itself.
    pub(super) fn alike(&self, fd: i32) -> impl Iterator<Item = i32> {
        let id = self.files.get(&fd).map(|file| file.id);
        let files = self.files.iter();
        files.filter_map(move |(&other, file)| (Some(file.id) == id).then_some(other))
    }

    /// These descriptors are something else from now on.
    pub(super) fn forget(&mut self, first: u32, last: u32) {
        let gone = |fd: i32| u32::try_from(fd).is_ok_and(|fd| (first..=last).contains(&fd));
        self.files.retain(|&fd, _| !gone(fd));
        self.moved.retain(|&fd| !gone(fd));
    }

    /// Somebody else may have moved them.
    pub(super) fn forget_offsets(&mut self) {
        for file in self.files.values_mut() {
            file.moved(None);
        }
    }

    /// A write through `fd` ended at `end`. Other descriptors of the same file may share where it
    /// stands.
    pub(super) fn wrote(&mut self, fd: i32, end: u64, moved: bool) {
        let Some(file) = self.files.get_mut(&fd) else {
            return;
        };
        file.wrote_to(end, moved);
        let id = file.id;
        for file in self.files.values_mut().filter(|file| file.id == id) {
            file.size_bytes = file.size_bytes.max(end);
        }
        if moved {
            self.others_moved(fd);
        }
    }

    /// A read through `fd` ended at `end`, if it did what it was asked for, which is believed for a
    /// while.
    pub(super) fn read(&mut self, fd: i32, end: u64) {
        let Some(file) = self.files.get_mut(&fd) else {
            return;
        };
        file.age += 1;
        let believed = file.age < AGE_MAX;
        file.moved(believed.then_some(end));
        if !believed {
            file.age = 0;
        }
        self.others_moved(fd);
    }

    /// Other descriptors of the file of `fd` may be copies of it, and stand where it does.
    fn others_moved(&mut self, fd: i32) {
        let id = self.files.get(&fd).map(|file| file.id);
        for (&other, file) in &mut self.files {
            if other != fd && Some(file.id) == id {
                file.moved(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> OpenFile {
        sized(inode, 0)
    }

    fn sized(inode: u64, size_bytes: u64) -> OpenFile {
        OpenFile::new(Some(Stat {
            device: 1,
            inode,
            mode: 0o100_644,
            links: 1,
            size_bytes,
        }))
    }

    #[test]
    fn where_a_descriptor_stands_that_is_met_is_known_where_it_can_be() {
        let met = |fd, size_bytes, executed, moved| {
            let mut files = Files::default();
            if moved {
                files.seek(fd, Some(7));
            }
            files.meet(fd, sized(1, size_bytes), executed);
            let file = files.get(fd).unwrap();
            (file.write_start(), file.position())
        };
        assert_eq!(met(3, 0, true, false), (Some(0), Some(0)));
        assert_eq!(met(3, 10, true, false), (None, Some(0)));
        // Another process may have moved it, and so has this one.
        assert_eq!(met(1, 10, true, false), (None, None));
        assert_eq!(met(3, 10, false, false), (None, None));
        assert_eq!(met(3, 0, true, true), (None, None));
    }

    #[test]
    fn a_descriptor_that_was_moved_and_closed_is_another() {
        let mut files = Files::default();
        files.seek(3, Some(7));
        files.forget(3, 3);
        files.meet(3, file(1), true);
        assert_eq!(files.get(3).unwrap().write_start(), Some(0));
    }

    #[test]
    fn who_stands_at_the_end_appends() {
        let mut files = Files::default();
        files.meet(3, file(1), true);
        assert!(files.get(3).unwrap().stands_at_end(0));
        // Somebody else has written.
        assert!(!files.get(3).unwrap().stands_at_end(10));
        files.wrote(3, 10, true);
        assert!(files.get(3).unwrap().stands_at_end(10));
        files.seek(3, Some(0));
        assert!(!files.get(3).unwrap().stands_at_end(10));
    }

    #[test]
    fn writes_move_the_descriptor_and_are_asked_for_again_in_the_end() {
        let mut files = Files::default();
        files.meet(3, file(1), true);
        for number in 1..u64::from(AGE_MAX) {
            files.wrote(3, number * 100, true);
            assert_eq!(files.get(3).unwrap().offset, Some(number * 100));
        }
        files.wrote(3, 10_000, true);
        assert_eq!(files.get(3).unwrap().offset, None);
        assert_eq!(files.get(3).unwrap().size_bytes, 10_000);
    }

    #[test]
    fn descriptors_of_the_same_file_may_move_together() {
        let mut files = Files::default();
        for (fd, inode) in [(3, 1), (4, 1), (5, 2)] {
            files.meet(fd, file(inode), true);
        }
        files.wrote(3, 100, true);
        let offset = |fd| files.get(fd).unwrap().offset;
        assert_eq!(
            [offset(3), offset(4), offset(5)],
            [Some(100), None, Some(0)]
        );
        files.wrote(4, 200, true);
        files.seek(3, Some(50));
        let position = |fd| files.get(fd).unwrap().position();
        assert_eq!([position(3), position(4)], [Some(50), None]);
    }

    #[test]
    fn where_a_read_ended_is_presumed_for_a_while_and_never_written_at() {
        let mut files = Files::default();
        for fd in [3, 4] {
            files.meet(fd, file(1), true);
        }
        for number in 1..u64::from(AGE_MAX) {
            files.read(3, number * 100);
            let file = files.get(3).unwrap();
            assert_eq!(file.position(), Some(number * 100));
            assert_eq!(file.write_start(), None);
        }
        assert_eq!(files.get(4).unwrap().position(), None);
        files.read(3, 10_000);
        assert_eq!(files.get(3).unwrap().position(), None);
    }

    #[test]
    fn closed_descriptors_are_forgotten() {
        let mut files = Files::default();
        for fd in [-1, 3, 4, 5] {
            files.meet(fd, file(1), true);
        }
        files.forget(4, u32::MAX);
        let left: Vec<_> = [-1, 3, 4, 5]
            .into_iter()
            .filter(|&fd| files.get(fd).is_some())
            .collect();
        assert_eq!(left, [-1, 3]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut files = Files::default();
        for fd in 0..10_000 {
            files.seek(fd + 1, None);
            files.meet(fd, file(1), true);
        }
        for fd in 10_000..20_000 {
            files.seek(fd, None);
        }
        assert!(files.files.len() <= FILES_MAX && files.moved.len() <= FILES_MAX);
    }
}
