//! Copies of files and trees: as they are, and encrypted.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::tree::Tree;
use crate::records::Numbers;

/// What `encrypt` reads and writes at a time, as programs that encrypt do.
const CIPHER_CHUNK_BYTES: usize = 64 << 10;

/// Copies a file or a tree with reads and writes of `chunk_bytes`.
pub(super) fn copy(from: &Path, to: &Path, chunk_bytes: usize) -> Result<String> {
    ensure!(chunk_bytes > 0, "nothing is to be copied at a time");
    let line = transfer(from, to, chunk_bytes, || |_: &mut [u8]| ())?;
    Ok(format!("copy {line}"))
}

/// Encrypts a file or a tree: what is encrypted twice is as it was.
pub(super) fn encrypt(from: &Path, to: &Path) -> Result<String> {
    let line = transfer(from, to, CIPHER_CHUNK_BYTES, || {
        let mut cipher = Cipher::new();
        move |bytes: &mut [u8]| cipher.apply(bytes)
    })?;
    // What the kernel calls this process, and a hypervisor that looks.
    let process = fs::read_to_string("/proc/self/comm").context("/proc/self/comm")?;
    Ok(format!("encrypt {line} process={}", process.trim_end()))
}

/// A keystream that stands in for a cipher: for each file the same, and of no use to hide anything.
struct Cipher {
    numbers: Numbers,
    /// The rest of the last number, from the lowest byte on.
    rest: u64,
    rest_bytes: u32,
}

impl Cipher {
    const KEY: u64 = 0x6b65_7920_6f66_2031;

    fn new() -> Self {
        Self {
            numbers: Numbers::new(Self::KEY),
            rest: 0,
            rest_bytes: 0,
        }
    }

    fn apply(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.rest_bytes == 0 {
                (self.rest, self.rest_bytes) = (self.numbers.draw(), 8);
            }
            *byte ^= self.rest.to_le_bytes()[0];
            self.rest >>= 8;
            self.rest_bytes -= 1;
        }
    }
}

/// Has each file of `from` in `to`, changed on the way by what `change` makes for it.
fn transfer<C: FnMut(&mut [u8])>(
    from: &Path,
    to: &Path,
    chunk_bytes: usize,
    change: impl Fn() -> C,
) -> Result<String> {
    let start = Instant::now();
    let tree = Tree::walk(from)?;
    let place = |path: &Path| match path.strip_prefix(from) {
        Ok(rest) if !rest.as_os_str().is_empty() => to.join(rest),
        _ => to.to_owned(),
    };
    for directory in &tree.directories {
        let made = place(directory);
        fs::create_dir_all(&made).with_context(|| format!("{}: create", made.display()))?;
    }
    let mut chunk = vec![0; chunk_bytes];
    for (path, bytes) in &tree.files {
        let copied = transfer_file(path, &place(path), &mut chunk, change());
        let copied = copied.with_context(|| format!("{}: copy", path.display()))?;
        ensure!(copied == *bytes, "{}: changed meanwhile", path.display());
    }
    Ok(format!(
        "files={} bytes={} ns={}",
        tree.files.len(),
        tree.bytes(),
        start.elapsed().as_nanos()
    ))
}

fn transfer_file(
    from: &Path,
    to: &Path,
    chunk: &mut [u8],
    mut change: impl FnMut(&mut [u8]),
) -> Result<u64> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut copied = 0;
    loop {
        let count = from.read(chunk)?;
        if count == 0 {
            return Ok(copied);
        }
        let bytes = &mut chunk[..count];
        change(bytes);
        to.write_all(bytes)?;
        copied += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cipher_does_not_see_where_chunks_end() {
        let plain: Vec<_> = (0..=255).cycle().take(1000).collect();
        let mut whole = plain.clone();
        Cipher::new().apply(&mut whole);
        assert!(whole.iter().zip(&plain).filter(|(a, b)| a == b).count() < 20);
        let (mut pieces, mut cipher) = (whole.clone(), Cipher::new());
        pieces.chunks_mut(13).for_each(|bytes| cipher.apply(bytes));
        assert_eq!(pieces, plain);
    }
}
