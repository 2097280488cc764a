//! What is in the files: blocks of text-like bytes, no two of which are alike.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

/// A block of a file system.
pub(super) const BLOCK_BYTES: u64 = 4096;
const WORD_BYTES: usize = 16;

/// The block of this number: neither zeros nor random.
pub(super) fn block(number: u64) -> [u8; 4096] {
    let mut block = [0; 4096];
    let word = format!("{number:>WORD_BYTES$}");
    for target in block.chunks_mut(WORD_BYTES) {
        target.copy_from_slice(&word.as_bytes()[..target.len()]);
    }
    block
}

/// Makes a file of so many bytes, whose blocks have numbers from `first` on.
pub(super) fn write(path: &Path, first: u64, bytes: u64) -> Result<File> {
    let problem = || format!("{}: write", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(problem)?);
    let mut left = bytes;
    for number in first.. {
        if left == 0 {
            break;
        }
        let len = left.min(BLOCK_BYTES);
        let block = block(number);
        let part = &block[..usize::try_from(len)?];
        file.write_all(part).with_context(problem)?;
        left -= len;
    }
    file.into_inner().with_context(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_blocks_are_alike() {
        assert_ne!(block(1), block(2));
        assert!(block(0).iter().all(|byte| *byte != 0));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, 7, BLOCK_BYTES + 5).unwrap();
        let expected = [&block(7)[..], &block(8)[..5]].concat();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }
}
