//! Reads what was generated, from the disk, and looks whether it is right.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use insight_hints::Class;
use rustix::fs::{Advice, fadvise};

use super::content::{BLOCK_BYTES, Kind, is_whole, truth};
use super::tree::Tree;

const CHUNK_BYTES: usize = 64 << 10;

/// Reads all files of a tree and checks them.
pub(super) fn run(root: &Path) -> Result<String> {
    let tree = Tree::walk(root)?;
    ensure!(!tree.files.is_empty(), "{}: no files", root.display());
    let start = Instant::now();
    let mut marks = 0;
    for (path, bytes) in &tree.files {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix('f')?.parse().ok());
        let number = number.with_context(|| format!("{}: not generated", path.display()));
        let found = read(path, number?, *bytes);
        marks += found.with_context(|| path.display().to_string())?;
    }
    Ok(format!(
        "read files={} bytes={} marks={marks} ns={}",
        tree.files.len(),
        tree.bytes(),
        start.elapsed().as_nanos()
    ))
}

/// Reads file `number`; returns how many of its blocks say what they are.
fn read(path: &Path, number: u32, bytes: u64) -> Result<u64> {
    let mut file = File::open(path)?;
    // Only pages that are clean can be dropped.
    file.sync_data()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let (mut chunk, mut offset, mut kind) = (vec![0; CHUNK_BYTES], 0, None);
    let mut marks = 0;
    loop {
        let count = fill(&mut file, &mut chunk)?;
        if count == 0 {
            break;
        }
        for block in chunk[..count].chunks(BLOCK_BYTES) {
            let kind = *kind.get_or_insert_with(|| kind_of(block));
            check(kind, number, bytes, offset, block)?;
            marks += u64::from(kind != Kind::Zeros);
            offset += block.len() as u64;
        }
    }
    ensure!(offset == bytes, "{offset} bytes are there of {bytes}");
    Ok(marks)
}

/// Reads until `chunk` is full or the file ends.
fn fill(file: &mut File, chunk: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match file.read(&mut chunk[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// What the blocks of a file are that begins with this one.
fn kind_of(block: &[u8]) -> Kind {
    match truth(block) {
        Some(truth) if truth.file.is_none() => Kind::Duplicate,
        None if is_zero(block) => Kind::Zeros,
        _ => Kind::Unique,
    }
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// Checks the block at `offset` of file `number`, which has `bytes`.
fn check(kind: Kind, number: u32, bytes: u64, offset: u64, block: &[u8]) -> Result<()> {
    if kind == Kind::Zeros {
        ensure!(is_zero(block), "at {offset} there are no zeros");
        return Ok(());
    }
    let Some(truth) = truth(block) else {
        bail!("at {offset} there is no mark")
    };
    ensure!(is_whole(block), "at {offset} there is a part of {truth:?}");
    let expected = match kind {
        Kind::Unique => (Some(number), offset / BLOCK_BYTES as u64),
        _ => (None, 0),
    };
    ensure!(
        (truth.file, u64::from(truth.block)) == expected,
        "at {offset} there is {truth:?}"
    );
    let class = Class::of_file(bytes);
    ensure!(
        kind != Kind::Unique || truth.class == class,
        "at {offset} the class is {:?}, not {class:?}",
        truth.class
    );
    Ok(())
}
