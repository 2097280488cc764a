//! Writes and reads that say what their data is worth.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use insight_hints::{Class, Dedup, iopen, ipread, ipwrite, iread, iwrite};

use super::content::{BLOCK_BYTES, Content, Kind};

/// The number that the marks have for a file of hints.
const FILE_NUMBER: u32 = 0;
const READ_WRITE_NEW: i32 = libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;

/// Says at open whether there is more of the data, and writes `count` blocks without a word.
pub(super) fn at_open(path: &Path, dedup: &str, count: u64) -> Result<String> {
    let problem = || path.display().to_string();
    let hint = match dedup {
        "no-dedup" => Dedup::No,
        "prefetch" => Dedup::Prefetch,
        _ => bail!("{dedup}: no-dedup or prefetch"),
    };
    let file = iopen(path, READ_WRITE_NEW, 0o600, hint).with_context(problem)?;
    let mut file = File::from(file);
    for _ in 0..count {
        file.write_all(&[b'x'; BLOCK_BYTES]).with_context(problem)?;
    }
    let bytes = count * BLOCK_BYTES as u64;
    Ok(format!(
        "open-hint dedup={dedup} blocks={count} bytes={bytes}"
    ))
}

/// Writes `count` blocks with the hint of this class, which their marks have too, whatever the size
/// of the file; the odd ones are written at their offsets. Then reads them.
pub(super) fn run(path: &Path, class: u64, count: u64) -> Result<String> {
    let problem = || path.display().to_string();
    let class = Class::try_from(class)?;
    let file = iopen(path, READ_WRITE_NEW, 0o600, class).with_context(problem)?;
    let file = File::from(file);
    let mut content = Content::of_class(Kind::Unique, class as u64, FILE_NUMBER, class);
    let (mut block, mut found) = ([0; BLOCK_BYTES], [0; BLOCK_BYTES]);
    let offsets = (0..count).map(|number| (number, number * BLOCK_BYTES as u64));
    // The descriptor's own offset is where the next of the even ones goes.
    for (number, offset) in offsets.clone() {
        content.read(offset, &mut block);
        let written = if number % 2 == 0 {
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(offset))?;
            iwrite(&file, &block, class)
        } else {
            ipwrite(&file, &block, offset, class)
        };
        let written = written.with_context(problem)?;
        ensure!(written == BLOCK_BYTES, "{written} bytes were written");
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    for (_, offset) in offsets {
        content.read(offset, &mut block);
        for is_at_offset in [true, false] {
            let read = if is_at_offset {
                ipread(&file, &mut found, offset, class)
            } else {
                iread(&file, &mut found, class)
            };
            let read = read.with_context(problem)?;
            ensure!(
                read == BLOCK_BYTES && found == block,
                "at {offset} there is something else, or less: {read} bytes"
            );
        }
    }
    let class = class as u8;
    let bytes = count * BLOCK_BYTES as u64;
    Ok(format!("hint class={class} blocks={count} bytes={bytes}"))
}
