//! Files whose content never is in a buffer of the program that makes them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::pwrite;
use rustix::pipe::{SpliceFlags, pipe};

use super::Job;

/// What the kernel moves at least at a time: it may do a part, but not nothing.
fn progress(moved: usize) -> Result<usize> {
    ensure!(moved > 0, "the kernel moved nothing");
    Ok(moved)
}

/// A file in memory alone, to move from.
fn source(job: &mut Job<'_>, piece: (u64, usize)) -> Result<impl AsFd> {
    let source = memfd_create("source", MemfdFlags::CLOEXEC)?;
    let bytes = job.piece(piece);
    ensure!(pwrite(&source, &bytes, 0)? == bytes.len(), "a part only");
    Ok(source)
}

pub(super) fn sendfile(mut job: Job<'_>) -> Result<()> {
    let file = File::create(job.path)?;
    for piece in job.pieces() {
        let source = source(&mut job, piece)?;
        let mut from = 0;
        while from < piece.1 as u64 {
            let rest = piece.1 - usize::try_from(from)?;
            progress(rustix::fs::sendfile(&file, &source, Some(&mut from), rest)?)?;
        }
    }
    Ok(())
}

pub(super) fn splice(mut job: Job<'_>) -> Result<()> {
    let file = File::create(job.path)?;
    let (end, start) = pipe()?;
    let flags = SpliceFlags::empty();
    for piece in job.pieces() {
        let source = source(&mut job, piece)?;
        let mut from = 0;
        while from < piece.1 as u64 {
            let rest = piece.1 - usize::try_from(from)?;
            let moved = rustix::pipe::splice(&source, Some(&mut from), &start, None, rest, flags);
            let mut in_pipe = progress(moved?)?;
            while in_pipe > 0 {
                let moved = rustix::pipe::splice(&end, None, &file, None, in_pipe, flags);
                in_pipe -= progress(moved?)?;
            }
        }
    }
    Ok(())
}

/// From a file beside it, which is written before and gone afterwards: file systems copy within
/// themselves only.
pub(super) fn copy_file_range(mut job: Job<'_>) -> Result<()> {
    let path = job.path.with_extension("source");
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(true);
    let mut source = options.open(&path)?;
    for piece in job.pieces() {
        source.write_all(&job.piece(piece))?;
    }
    let file = File::create(job.path)?;
    let (mut from, mut to) = (0, 0);
    while from < job.bytes {
        let rest = usize::try_from(job.bytes - from)?.min(job.chunk_bytes);
        let (from, to) = (Some(&mut from), Some(&mut to));
        progress(rustix::fs::copy_file_range(&source, from, &file, to, rest)?)?;
    }
    Ok(fs::remove_file(&path)?)
}
