//! Files that programs write.
#![expect(unsafe_code, reason = "maps files")]

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::OpenOptionsExt as _;
use std::ptr;

use anyhow::{Result, ensure};
use rustix::fs::{SeekFrom, seek};
use rustix::io::{dup, pwrite, pwritev, write, writev};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::Job;
use crate::syscalls::child;
use crate::syscalls::content::BLOCK_BYTES;

/// How much of a file is mapped at a time: a multiple of a block.
const WINDOW_BYTES: u64 = 4 << 20;
/// How much of a file is written before it is made durable.
const TRANSACTION_PIECES: usize = 8;

fn create(job: &Job<'_>) -> Result<File> {
    Ok(OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(job.path)?)
}

/// That a write did all that it was to do.
fn whole(written: rustix::io::Result<usize>, count: usize) -> Result<()> {
    let written = written?;
    ensure!(written == count, "{written} bytes of {count} were written");
    Ok(())
}

pub(super) fn in_order(mut job: Job<'_>) -> Result<()> {
    let file = create(&job)?;
    for piece in job.pieces() {
        whole(write(&file, &job.piece(piece)), piece.1)?;
    }
    Ok(())
}

pub(super) fn in_any_order(mut job: Job<'_>) -> Result<()> {
    let file = create(&job)?;
    for piece in shuffled(&mut job) {
        whole(pwrite(&file, &job.piece(piece), piece.0), piece.1)?;
    }
    Ok(())
}

/// As a database writes its pages.
pub(super) fn transactions(mut job: Job<'_>) -> Result<()> {
    let file = create(&job)?;
    for transaction in shuffled(&mut job).chunks(TRANSACTION_PIECES) {
        for &piece in transaction {
            whole(pwrite(&file, &job.piece(piece), piece.0), piece.1)?;
        }
        file.sync_data()?;
    }
    Ok(())
}

fn shuffled(job: &mut Job<'_>) -> Vec<(u64, usize)> {
    let mut pieces: Vec<_> = job.pieces().collect();
    // Fisher and Yates.
    for at in (1..pieces.len()).rev() {
        pieces.swap(at, job.numbers.size(0, at + 1));
    }
    pieces
}

/// Three parts of what is written at once: uneven, and the last one may be empty.
fn parts(bytes: &[u8]) -> [IoSlice<'_>; 3] {
    let (first, rest) = bytes.split_at(bytes.len() / 3);
    let (second, third) = rest.split_at(rest.len().div_ceil(2));
    [first, second, third].map(IoSlice::new)
}

pub(super) fn from_pieces(mut job: Job<'_>) -> Result<()> {
    let file = create(&job)?;
    for piece in job.pieces() {
        whole(writev(&file, &parts(&job.piece(piece))), piece.1)?;
    }
    Ok(())
}

pub(super) fn from_pieces_backwards(mut job: Job<'_>) -> Result<()> {
    let file = create(&job)?;
    for piece in job.pieces().rev() {
        let written = pwritev(&file, &parts(&job.piece(piece)), piece.0);
        whole(written, piece.1)?;
    }
    Ok(())
}

pub(super) fn around_the_cache(mut job: Job<'_>) -> Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true);
    let file = options.custom_flags(libc::O_DIRECT).open(job.path)?;
    let mut buffer = vec![0; job.chunk_bytes + BLOCK_BYTES];
    let start = buffer.as_ptr().align_offset(BLOCK_BYTES);
    for (offset, count) in job.pieces() {
        let bytes = &mut buffer[start..start + count];
        job.content.read(offset, bytes);
        whole(write(&file, bytes), count)?;
    }
    Ok(())
}

pub(super) fn append(mut job: Job<'_>) -> Result<File> {
    drop(create(&job)?);
    let file = File::options().append(true).open(job.path)?;
    for piece in job.pieces() {
        whole(write(&file, &job.piece(piece)), piece.1)?;
    }
    Ok(file)
}

pub(super) fn in_memory(mut job: Job<'_>) -> Result<()> {
    let file = create(&job)?;
    file.set_len(job.bytes)?;
    for offset in (0..job.bytes).step_by(usize::try_from(WINDOW_BYTES)?) {
        let count = usize::try_from(WINDOW_BYTES.min(job.bytes - offset))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping harms nobody.
        let memory = unsafe {
            mmap(
                ptr::null_mut(),
                count,
                protection,
                MapFlags::SHARED,
                &file,
                offset,
            )
        }?;
        // SAFETY: the mapping is this long, zeros or what was there, and nobody else's: the file was
        // just made here.
        let bytes = unsafe { std::slice::from_raw_parts_mut(memory.cast(), count) };
        job.content.read(offset, bytes);
        // SAFETY: nothing refers to it any more.
        unsafe { munmap(memory, count) }?;
    }
    Ok(())
}

/// Two descriptors of one open file share its offset.
pub(super) fn through_two_descriptors(mut job: Job<'_>) -> Result<()> {
    let file = create(&job)?;
    let other = dup(&file)?;
    for (number, piece) in job.pieces().enumerate() {
        let bytes = job.piece(piece);
        let written = match number % 2 {
            0 => write(&file, &bytes),
            _ => write(&other, &bytes),
        };
        whole(written, piece.1)?;
    }
    Ok(())
}

/// The child goes on where its parent stopped.
pub(super) fn parent_then_child(mut job: Job<'_>) -> Result<()> {
    let file = create(&job)?;
    let pieces: Vec<_> = job.pieces().collect();
    let (parents, childs) = pieces.split_at(pieces.len() / 2);
    for &piece in parents {
        whole(write(&file, &job.piece(piece)), piece.1)?;
    }
    let child = child::fork(|| {
        let mut pieces = childs.iter();
        let all = pieces.all(|&piece| write(&file, &job.piece(piece)) == Ok(piece.1));
        u8::from(!all)
    })?;
    child::expect(child, 0)?;
    let end = seek(&file, SeekFrom::Current(0))?;
    ensure!(end == job.bytes, "the offset is {end} after the child");
    Ok(())
}

/// The second half is a hole at first, then written from its end on, cut off and written again.
pub(super) fn into_a_hole(mut job: Job<'_>) -> Result<()> {
    let file = create(&job)?;
    let pieces: Vec<_> = job.pieces().collect();
    let (first, second) = pieces.split_at(pieces.len() / 2);
    for &piece in first {
        whole(write(&file, &job.piece(piece)), piece.1)?;
    }
    let half = second.first().map_or(0, |(offset, _)| *offset);
    for _ in 0..2 {
        file.set_len(half)?;
        file.set_len(job.bytes)?;
        for &piece in second.iter().rev() {
            whole(pwrite(&file, &job.piece(piece), piece.0), piece.1)?;
        }
    }
    Ok(())
}
