//! What is counted of the guest's file I/O, and how it is told.
//!
//! The observer says what calls do, and at which time; nothing here has a clock, asks the guest,
//! or grows without a bound. A call is seen when it is made: one that fails, or does less, counts
//! as if it had not.

mod blocks;
mod executables;
mod files;
mod histogram;
mod plot;
mod summary;
mod table;
mod usage;
mod working_set;

use disk::mutant;

use super::file::OpenFile;
use super::fingerprints::FileId;
use blocks::{Blocks, Death};
use executables::Executables;
use files::SeenFiles;
use histogram::Histogram;
use summary::{Lifetimes, Limits};

pub(crate) use plot::plot;
pub(crate) use summary::{DiskRow, Summary};
pub(crate) use table::table;

/// The most that the kernel reads or writes in a call (Linux, `MAX_RW_COUNT`).
const CALL_BYTES_MAX: u64 = 0x7fff_f000;

/// Who makes a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    /// The path of what it executes; empty if that is not known.
    pub(super) executable: &'a [u8],
    pub(super) pid: u32,
}

/// A read or a write of a regular file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) at_ms: u64,
    pub(super) file: FileId,
    /// Where it begins, if that is known.
    pub(super) position: Option<u64>,
    /// How many bytes were asked for.
    pub(super) len: u64,
    /// How large the file is, if nobody knows better.
    pub(super) size_bytes: u64,
}

/// All that is counted.
#[derive(Debug, Default)]
pub(super) struct Report {
    since_ms: Option<u64>,
    executables: Executables,
    files: SeenFiles,
    file_lifetimes: Histogram,
    blocks: Blocks,
    /// What is counted here as it happens.
    limits: Limits,
}

impl Report {
    /// A process made a call, of whatever kind.
    pub(super) fn called(&mut self, at_ms: u64, caller: Caller<'_>) {
        self.since_ms.get_or_insert(at_ms);
        self.executables.called(caller);
    }

    /// The kernel copies by itself.
    pub(super) fn transferred(&mut self) {
        self.limits.transfers += 1;
    }

    /// A process maps something.
    pub(super) fn mapped(&mut self) {
        self.limits.maps += 1;
    }

    /// A descriptor of a process was met. A file that has nothing any more was emptied when it was
    /// opened, as far as is known.
    pub(super) fn opened(&mut self, at_ms: u64, file: &OpenFile, pid: u32) {
        if !file.regular {
            return;
        }
        let (seen, gone) = self.files.meet(file.id, file.size_bytes);
        seen.opens += 1;
        seen.usage.by(pid);
        let shrunk = file.size_bytes < seen.size_bytes;
        seen.size_bytes = file.size_bytes;
        if shrunk && file.size_bytes == 0 {
            self.blocks.end(at_ms, file.id, 0, Death::Truncated);
        } else if shrunk {
            self.limits.ends_unseen += 1;
            self.blocks.forget(file.id, file.size_bytes);
        }
        self.forget(gone);
    }

    /// Whether a file is to be asked for its path, that is about to be written so many bytes.
    pub(super) fn lacks_name(&self, file: FileId, bytes: u64) -> bool {
        self.files.lacks_name(file, bytes)
    }

    /// The kernel said what a file is called, or that it does not know.
    pub(super) fn named(&mut self, file: FileId, path: Option<&[u8]>) {
        self.files.named(file, path);
    }

    /// A file that was met is none of those that were asked for.
    pub(super) fn disregard(&mut self, file: FileId) {
        self.files.disregard(file);
    }

    /// How large a file is, if it was met.
    pub(super) fn size_bytes(&self, file: FileId) -> Option<u64> {
        self.files.size_bytes(file)
    }

    /// A file is read. Returns how many bytes that are: there are none behind its end.
    pub(super) fn read(&mut self, caller: Caller<'_>, access: Access) -> u64 {
        let (file, gone) = self.files.meet(access.file, access.size_bytes);
        let start = access.position.unwrap_or_default().min(file.size_bytes);
        let len = access.len.min(CALL_BYTES_MAX).min(file.size_bytes - start);
        self.executables.of(caller).usage.traffic.read(len);
        file.usage.traffic.read(len);
        file.usage.by(caller.pid);
        self.forget(gone);
        if access.position.is_some() {
            self.blocks
                .read(access.at_ms, access.file, start..start + len);
        } else {
            self.limits.positions_unknown += 1;
        }
        len
    }

    /// A file is written.
    pub(super) fn wrote(&mut self, caller: Caller<'_>, access: Access) {
        let len = access.len.min(CALL_BYTES_MAX);
        self.executables.of(caller).usage.traffic.wrote(len);
        let (file, gone) = self.files.meet(access.file, access.size_bytes);
        file.usage.traffic.wrote(len);
        file.usage.by(caller.pid);
        file.first_write_ms.get_or_insert(access.at_ms);
        let size_bytes = file.size_bytes;
        if let Some(start) = access.position {
            let end = start.saturating_add(len);
            file.size_bytes = size_bytes.max(end);
            self.blocks
                .write(access.at_ms, access.file, start..end, size_bytes);
        } else {
            self.limits.positions_unknown += 1;
        }
        self.forget(gone);
    }

    /// A file is given another size.
    pub(super) fn truncated(&mut self, at_ms: u64, file: FileId, size_bytes: u64) {
        if let Some(seen) = self.files.get_mut(file) {
            seen.size_bytes = size_bytes;
            self.blocks.end(at_ms, file, size_bytes, Death::Truncated);
        }
    }

    /// A file loses one of its `links` names.
    pub(super) fn unlinked(&mut self, at_ms: u64, file: FileId, links: u64) {
        if links > 1 && !mutant("a file ends with its first name") {
            self.limits.unlinks_of_linked += 1;
            return;
        }
        let Some((first_write_ms, size_bytes)) = self.files.ends(file) else {
            self.limits.unlinks_of_unknown += 1;
            return;
        };
        self.blocks.end(at_ms, file, 0, Death::Unlinked);
        if let Some(first_write_ms) = first_write_ms {
            let lasted_ms = at_ms.saturating_sub(first_write_ms);
            self.file_lifetimes.add(lasted_ms, 1, size_bytes);
        }
    }

    /// All of it, but for the disks, which are not known here.
    pub(super) fn summary(&self, now_ms: u64) -> Summary {
        let since_ms = self.since_ms.unwrap_or(now_ms);
        let summary = Summary {
            observed_ms: now_ms.saturating_sub(since_ms),
            disks: Vec::new(),
            processes: self.executables.rows(),
            files: self.files.rows(),
            lifetimes: Lifetimes {
                files: self.file_lifetimes.buckets(),
                files_alive: self.files.written(),
                blocks: self.blocks.lifetimes(),
            },
            working_sets: self.blocks.working_sets(since_ms, now_ms),
            limits: Limits {
                one_block_in: self.blocks.one_in(),
                blocks_skipped: self.blocks.skipped(),
                files_forgotten: self.files.forgotten,
                files_forgotten_bytes: self.files.forgotten_bytes,
                ..self.limits
            },
        };
        summary.limit()
    }

    fn forget(&mut self, files: Vec<FileId>) {
        for file in files {
            self.blocks.forget(file, 0);
        }
    }
}

#[cfg(test)]
mod tests;
