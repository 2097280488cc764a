//! A database joins two tables: one is scanned, and of the other a row is looked up for each row of
//! that, by an index of three levels.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use insight_hints::{Class, ipread};

use super::content::{BLOCK_BYTES, write};
use crate::records::Numbers;

/// The index is a root, nodes, and leaves; a page is a block.
const NODES: u64 = 16;
const LEAVES: u64 = 512;
const LEAVES_FROM: u64 = 1 + NODES;
/// The table that is looked up in, a row a block.
const ROWS: u64 = 50 << 10;
/// The table that is scanned.
const SCANNED_BYTES: u64 = 96 << 20;
const SCAN_BYTES: usize = 64 << 10;
/// So many rows are in what is scanned at a time.
const ROWS_A_SCAN: u64 = 8;
/// How many rows are looked up in a round.
const OPERATIONS: u64 = 400;

/// Each file, with its blocks.
const FILES: [(&str, u64); 3] = [
    ("index", LEAVES_FROM + LEAVES),
    ("rows", ROWS),
    ("scanned", SCANNED_BYTES / BLOCK_BYTES),
];

pub(super) fn make(directory: &Path) -> Result<()> {
    let mut block = 0;
    for (name, blocks) in FILES {
        write(&directory.join(name), block, blocks * BLOCK_BYTES)?;
        block += blocks;
    }
    Ok(())
}

pub(super) fn round(directory: &Path, round: u64) -> Result<u64> {
    let open = |name: &str| {
        let path = directory.join(name);
        File::open(&path).with_context(|| format!("{}: open", path.display()))
    };
    let (index, rows, scanned) = (open("index")?, open("rows")?, open("scanned")?);
    let mut numbers = Numbers::new(2000 + round);
    let mut page = [0; 4096];
    let mut scan = vec![0; SCAN_BYTES];
    let mut at = round * OPERATIONS / ROWS_A_SCAN * SCAN_BYTES as u64;
    for operation in 0..OPERATIONS {
        if operation.is_multiple_of(ROWS_A_SCAN) {
            scanned.read_exact_at(&mut scan, at % SCANNED_BYTES)?;
            at += SCAN_BYTES as u64;
        }
        let row = numbers.below(ROWS);
        let leaf = row * LEAVES / ROWS;
        for number in [0, 1 + leaf * NODES / LEAVES, LEAVES_FROM + leaf] {
            let read = ipread(&index, &mut page, number * BLOCK_BYTES, Class::Metadata)?;
            ensure!(read == page.len(), "the index ends at page {number}");
        }
        rows.read_exact_at(&mut page, row * BLOCK_BYTES)?;
    }
    Ok(OPERATIONS)
}
