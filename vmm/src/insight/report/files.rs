//! The files that were met, by their inodes while they are there and by their names afterwards.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::super::fingerprints::FileId;
use super::super::located::numbers;
use super::summary::FileRow;
use super::usage::{Usage, take_smaller_half};

/// Files that are there and followed, and names of those that are gone. Of more, those with the
/// least bytes are forgotten.
const LIVE_MAX: usize = 8192;
const ENDED_MAX: usize = 4096;
/// A file of less than so many bytes, of which fewer were read and written, is not worth being asked
/// for its name, which takes an exit.
const NAMED_BYTES: u64 = 32 << 10;

/// What a file is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Name {
    /// Nobody has asked.
    #[default]
    NotAsked,
    /// The kernel does not say.
    None,
    Path(String),
}

/// A file that is there.
#[derive(Debug, Default)]
pub(super) struct LiveFile {
    name: Name,
    pub(super) size_bytes: u64,
    pub(super) opens: u64,
    pub(super) usage: Usage,
    /// When it was first written, as far as that was seen.
    pub(super) first_write_ms: Option<u64>,
}

/// Files of one name.
#[derive(Debug, Default)]
struct Ended {
    id: FileId,
    path: Option<String>,
    size_bytes: u64,
    count: u64,
    opens: u64,
    usage: Usage,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct SeenFiles {
    live: HashMap<FileId, LiveFile, RandomState>,
    /// By what they are shown as.
    ended: HashMap<String, Ended, RandomState>,
    /// What is not shown any more.
    pub(super) forgotten: u64,
    pub(super) forgotten_bytes: u64,
}

impl SeenFiles {
    /// A file that is there, which is met now with `size_bytes` if it was not yet; with the files
    /// that have to make room for it, which are known no more.
    pub(super) fn meet(&mut self, id: FileId, size_bytes: u64) -> (&mut LiveFile, Vec<FileId>) {
        let mut gone = Vec::new();
        if self.live.len() >= LIVE_MAX && !self.live.contains_key(&id) {
            let small = take_smaller_half(&mut self.live, |file| file.usage.traffic.bytes());
            for (id, file) in small {
                self.note_forgotten(&file.usage);
                gone.push(id);
            }
        }
        let new = || LiveFile {
            size_bytes,
            ..LiveFile::default()
        };
        (self.live.entry(id).or_insert_with(new), gone)
    }

    /// A file that was met, and is there.
    pub(super) fn get_mut(&mut self, id: FileId) -> Option<&mut LiveFile> {
        self.live.get_mut(&id)
    }

    /// A file that was met is of no interest.
    pub(super) fn disregard(&mut self, id: FileId) {
        self.live.remove(&id);
    }

    /// How large a file is, if it was met.
    pub(super) fn size_bytes(&self, id: FileId) -> Option<u64> {
        self.live.get(&id).map(|file| file.size_bytes)
    }

    /// Whether the file, that is about to be written so many bytes, is to be asked for its path.
    pub(super) fn lacks_name(&self, id: FileId, bytes: u64) -> bool {
        self.live.get(&id).is_some_and(|file| {
            let has = file.usage.traffic.bytes().max(file.size_bytes);
            file.name == Name::NotAsked && has.saturating_add(bytes) >= NAMED_BYTES
        })
    }

    /// The kernel said what a file is called, or that it does not know.
    pub(super) fn named(&mut self, id: FileId, path: Option<&[u8]>) {
        if let Some(file) = self.live.get_mut(&id) {
            let path = path.map(|path| String::from_utf8_lossy(path).into_owned());
            file.name = path.map_or(Name::None, Name::Path);
        }
    }

    /// A file is no more. Returns when it was first written, and its size; nothing if it was not
    /// met.
    pub(super) fn ends(&mut self, id: FileId) -> Option<(Option<u64>, u64)> {
        let file = self.live.remove(&id)?;
        let path = match file.name {
            Name::Path(path) => Some(path),
            Name::NotAsked | Name::None => None,
        };
        let shown = path.clone().unwrap_or_else(|| number(id));
        if self.ended.len() >= ENDED_MAX && !self.ended.contains_key(&shown) {
            let small = take_smaller_half(&mut self.ended, |file| file.usage.traffic.bytes());
            for (_, file) in small {
                self.note_forgotten(&file.usage);
            }
        }
        let ended = self.ended.entry(shown).or_default();
        ended.id = id;
        ended.path = path;
        ended.size_bytes = file.size_bytes;
        ended.count += 1;
        ended.opens += file.opens;
        ended.usage.add(&file.usage);
        Some((file.first_write_ms, file.size_bytes))
    }

    /// How many are there that were seen when they were written.
    pub(super) fn written(&self) -> u64 {
        let written = |file: &&LiveFile| file.first_write_ms.is_some();
        self.live.values().filter(written).count() as u64
    }

    /// Those with the most bytes come first. Of one path there is one row, whatever files had it.
    pub(super) fn rows(&self) -> Vec<FileRow> {
        let mut all: HashMap<String, Ended> = HashMap::new();
        let live = self.live.iter().map(|(&id, file)| {
            let path = match &file.name {
                Name::Path(path) => Some(path.clone()),
                Name::NotAsked | Name::None => None,
            };
            (id, path, file.size_bytes, 0, file.opens, &file.usage)
        });
        let ended = self.ended.values().map(|file| {
            let path = file.path.clone();
            let Ended { id, size_bytes, .. } = *file;
            (id, path, size_bytes, file.count, file.opens, &file.usage)
        });
        // What is there comes last, so that its numbers are those that are shown.
        for (id, path, size_bytes, count, opens, usage) in ended.chain(live) {
            let shown = path.clone().unwrap_or_else(|| number(id));
            let row = all.entry(shown).or_default();
            (row.id, row.path, row.size_bytes) = (id, path, size_bytes);
            row.count += count;
            row.opens += opens;
            row.usage.add(usage);
        }
        let mut rows: Vec<_> = all.into_iter().collect();
        rows.sort_unstable_by(|(a_name, a), (b_name, b)| {
            let order = b.usage.traffic.bytes().cmp(&a.usage.traffic.bytes());
            order.then_with(|| a_name.cmp(b_name))
        });
        rows.into_iter().map(|(_, file)| row(file)).collect()
    }

    fn note_forgotten(&mut self, usage: &Usage) {
        self.forgotten += 1;
        let bytes = usage.traffic.bytes();
        self.forgotten_bytes = self.forgotten_bytes.saturating_add(bytes);
    }
}

fn row(file: Ended) -> FileRow {
    let (major, minor) = numbers(file.id.device);
    FileRow {
        path: file.path,
        device: format!("{major}:{minor}"),
        inode: file.id.inode,
        size_bytes: file.size_bytes,
        opens: file.opens,
        processes: file.usage.processes(),
        ended: file.count,
        traffic: file.usage.traffic,
    }
}

/// What a file is shown as whose path is not known.
fn number(id: FileId) -> String {
    let (major, minor) = numbers(id.device);
    format!("{major}:{minor}:{}", id.inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(inode: u64) -> FileId {
        FileId {
            device: 0xfe01,
            inode,
        }
    }

    fn wrote(files: &mut SeenFiles, inode: u64, path: Option<&str>, bytes: u64) {
        files.meet(id(inode), 0).0.usage.traffic.wrote(bytes);
        files.named(id(inode), path.map(str::as_bytes));
    }

    #[test]
    fn files_of_one_path_are_one_row() {
        let mut files = SeenFiles::default();
        wrote(&mut files, 1, Some("/a"), 10);
        files.ends(id(1)).unwrap();
        wrote(&mut files, 2, Some("/a"), 7);
        wrote(&mut files, 3, None, 12);
        assert_eq!(files.ends(id(1)), None);
        let rows = files.rows();
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.path.as_deref(), row.inode, row.ended))
            .collect();
        assert_eq!(seen, [(Some("/a"), 2, 1), (None, 3, 0)]);
        assert_eq!(rows[0].traffic.written_bytes, 17);
        assert_eq!(rows[0].device, "254:1");
    }

    #[test]
    fn a_file_is_asked_for_its_path_once_and_only_if_it_is_worth_it() {
        let mut files = SeenFiles::default();
        assert!(!files.lacks_name(id(1), NAMED_BYTES));
        files.meet(id(1), NAMED_BYTES);
        assert!(files.lacks_name(id(1), 0));
        for lacks in [false, true] {
            assert_eq!(files.lacks_name(id(2), 0), lacks);
            let (file, _) = files.meet(id(2), 0);
            file.usage.traffic.read(NAMED_BYTES - u64::from(lacks));
        }
        files.meet(id(3), 0);
        for (bytes, lacks) in [(NAMED_BYTES - 1, false), (NAMED_BYTES, true)] {
            assert_eq!(files.lacks_name(id(3), bytes), lacks);
        }
        files.named(id(1), None);
        assert!(!files.lacks_name(id(1), 0));
    }

    #[test]
    fn memory_is_bounded_and_what_it_costs_is_counted() {
        let mut files = SeenFiles::default();
        let mut gone = 0;
        for inode in 0..20_000 {
            let (file, small) = files.meet(id(inode), 0);
            file.usage.traffic.read(1 + inode % 1000);
            gone += small.len();
            assert!(files.live.len() <= LIVE_MAX);
        }
        assert_eq!(files.live.len() + gone, 20_000);
        assert_eq!(files.forgotten, gone as u64);
        for inode in 30_000..50_000 {
            files.meet(id(inode), 0);
            files.ends(id(inode));
            assert!(files.ended.len() <= ENDED_MAX);
        }
        let shown: u64 = files.rows().iter().map(|row| row.traffic.bytes()).sum();
        let all: u64 = (0..20_000).map(|inode| 1 + inode % 1000).sum();
        assert_eq!(shown + files.forgotten_bytes, all);
    }
}
