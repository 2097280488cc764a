//! Disk images of the guest.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::command::run;
use crate::packages::Tool;
use crate::{Error, Result};

/// Makes a blank raw image of `size_bytes` at `path`, sparse; what is there is replaced.
pub fn blank(path: &Path, size_bytes: u64) -> Result<()> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    file.set_len(size_bytes).map_err(Error::io("resize", path))
}

/// Makes a raw image of `size_bytes` at `path` that holds an ext4 file system with the content of
/// the directory `content`; without one it is empty. What is there is replaced.
///
/// Needs [`Tool::Mke2fs`], but neither root nor a loop device.
pub fn ext4(path: &Path, size_bytes: u64, content: Option<&Path>) -> Result<()> {
    blank(path, size_bytes)?;
    run(&mut mke2fs(path, content))?;
    Ok(())
}

/// The command that fills the blank image at `path`.
fn mke2fs(path: &Path, content: Option<&Path>) -> Command {
    let mut command = Tool::Mke2fs.start();
    // The tables are written now, so that no thread of the guest's kernel does it behind the
    // back of what a test or a benchmark counts.
    command.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-E",
        "lazy_itable_init=0,root_owner=0:0",
    ]);
    if let Some(content) = content {
        command.arg("-d").arg(content);
    }
    command.arg(path);
    command
}

/// Copies an image and keeps its holes, sharing the blocks where the file system can.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command
        .args(["--reflink=auto", "--sparse=always", "--"])
        .arg(from)
        .arg(to);
    run(&mut command)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_blank_image_is_sparse_and_zero() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, "old").unwrap();
        blank(&path, 1 << 30).unwrap();
        let status = fs::metadata(&path).unwrap();
        assert_eq!((status.len(), status.blocks()), (1 << 30, 0));
    }

    #[test]
    fn a_copy_keeps_content_and_holes() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        blank(&from, 64 << 20).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&from).unwrap();
        file.write_all_at(b"content", 32 << 20).unwrap();
        copy(&from, &to).unwrap();
        let copied = File::open(&to).unwrap();
        let mut content = [0; 7];
        copied.read_exact_at(&mut content, 32 << 20).unwrap();
        assert_eq!(&content, b"content");
        let status = copied.metadata().unwrap();
        assert_eq!(status.len(), 64 << 20);
        assert!(
            status.blocks() * 512 < 1 << 20,
            "{} blocks",
            status.blocks()
        );
    }

    /// The superblock's magic number and block count (Linux Documentation/filesystems/ext4).
    #[test]
    fn an_ext4_image_fills_the_disk_and_holds_the_content() {
        if Tool::Mke2fs.find().is_none() {
            eprintln!("skipped: this host has no mke2fs");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let content = directory.path().join("content");
        fs::create_dir(&content).unwrap();
        fs::write(content.join("greeting"), "hello from the image").unwrap();
        let path = directory.path().join("disk");
        ext4(&path, 32 << 20, Some(&content)).unwrap();
        let image = fs::read(&path).unwrap();
        assert_eq!(image.len(), 32 << 20);
        assert_eq!(image[1080..1082], [0x53, 0xef]);
        let needle = b"hello from the image";
        assert!(image.windows(needle.len()).any(|window| window == needle));
    }
}
