//! The content of images: every piece says where it belongs.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{Advice, fadvise};

/// The unit that says where it belongs; every block is a multiple of it.
const STAMP_BYTES: usize = 4096;

/// The first bytes of the block at `offset`.
pub(in crate::bench) fn block_start(offset: u64) -> [u8; 8] {
    (!offset).to_be_bytes()
}

/// Makes `data` what belongs at `offset`.
pub(in crate::bench) fn stamp(data: &mut [u8], offset: u64) {
    let stamps = data.chunks_mut(STAMP_BYTES);
    for (stamp, offset) in stamps.zip((offset..).step_by(STAMP_BYTES)) {
        stamp[..8].copy_from_slice(&block_start(offset));
    }
}

/// Makes a raw image, all of it written.
pub(in crate::bench) fn fill(path: &Path, size_bytes: u64) -> Result<()> {
    const PIECE_BYTES: usize = 2 << 20;
    let mut file = File::create(path).with_context(|| format!("{}", path.display()))?;
    for start in (0..size_bytes).step_by(PIECE_BYTES) {
        let len = PIECE_BYTES.min(usize::try_from(size_bytes - start)?);
        let mut piece = vec![0x5a; len];
        stamp(&mut piece, start);
        file.write_all(&piece)
            .with_context(|| format!("{}: cannot write", path.display()))?;
    }
    Ok(())
}

/// Brings a file into the host's cache page by page. The cache is made of pieces as large as what
/// was written or read at once, and their size decides what an access costs (on ext4 a small write
/// to a large piece takes ten times as long): it must be the same for all.
pub(in crate::bench) fn warm(path: &Path) -> Result<()> {
    let read = || -> std::io::Result<()> {
        let file = File::open(path)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        fadvise(&file, 0, None, Advice::Random)?;
        let size_bytes = file.metadata()?.len();
        for offset in (0..size_bytes).step_by(STAMP_BYTES) {
            file.read_at(&mut [0; STAMP_BYTES], offset)?;
        }
        Ok(())
    };
    read().with_context(|| format!("{}: cannot read", path.display()))
}
