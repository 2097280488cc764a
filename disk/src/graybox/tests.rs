mod hostile;
mod images;
mod journal;
mod partitions;
mod places;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::GrayBox;
use crate::test_support::skip;
use crate::{Buffers, Class, Classifier as _};

/// What each block of content begins with.
const MARK: &[u8; 16] = b"\xffcontent of file";
const SIZE_BYTES: u64 = 96 << 20;

/// The least that `mkfs.xfs` takes, and some.
const XFS_BYTES: u64 = 320 << 20;

/// How the file systems of these tests are made. `TREE` is a directory with what is to be in them,
/// `LIST` a file that names some of it.
const EXT: &str = "mke2fs -q -F -d TREE";
const XFS: &str = "mkfs.xfs -q -f -p LIST";

/// Content of so many blocks of 1 KiB, each of which has the mark.
fn content(blocks: usize) -> Vec<u8> {
    let mut bytes = vec![0; blocks << 10];
    for (number, block) in (0_u64..).zip(bytes.chunks_mut(1 << 10)) {
        block.fill(number.to_le_bytes()[0] | 1);
        block[..16].copy_from_slice(MARK);
    }
    bytes
}

/// Files, directories and links of all sizes.
fn tree(root: &Path) {
    let many = root.join("many");
    fs::create_dir_all(&many).unwrap();
    for number in 0..400 {
        let name = format!("a name that takes some room in a directory {number}");
        fs::write(many.join(name), content(number % 3)).unwrap();
    }
    fs::write(root.join("large"), content(9 << 10)).unwrap();
    for number in 0..20 {
        let directory = root.join(format!("directory{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), content(40)).unwrap();
        std::os::unix::fs::symlink("long/".repeat(40), directory.join("link")).unwrap();
    }
    // Every other block, so that the map of the file takes blocks of its own.
    let file = fs::File::create(root.join("scattered")).unwrap();
    for number in 0..700 {
        let write = std::os::unix::fs::FileExt::write_all_at;
        write(&file, &content(4), number * 8192).unwrap();
    }
}

/// What a file system is to have, as `mkfs.xfs` wants to be told: names, with where they come from.
fn list(tree: &Path) -> String {
    let mut list = "boot 0 0\nd--755 0 0\nmany d--755 0 0\n".to_owned();
    let many = tree.join("many");
    let entries: Vec<_> = fs::read_dir(&many).unwrap().collect();
    for (number, entry) in entries.into_iter().enumerate() {
        // A name with blanks cannot be told.
        let plain = many.join(number.to_string());
        fs::rename(entry.unwrap().path(), &plain).unwrap();
        let from = plain.display();
        writeln!(list, "name-that-takes-room-{number} ---644 0 0 {from}").unwrap();
    }
    let large = tree.join("large");
    list + &format!("$\nlarge ---644 0 0 {}\n$\n", large.display())
}

/// The image that a command makes, or nothing if its program is not here.
fn image(test: &str, command: &str) -> Option<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let program = command.split(' ').next().unwrap();
    let found = ["/usr/sbin", "/sbin", "/usr/bin"].map(|place| PathBuf::from(place).join(program));
    let Some(program) = found.iter().find(|path| path.exists()) else {
        skip(test, &format!("{program} is not installed"));
        return None;
    };
    if command.contains("TREE") || command.contains("LIST") {
        tree(&path("tree"));
    }
    if command.contains("LIST") {
        fs::write(path("list"), list(&path("tree"))).unwrap();
    }
    let size_bytes = if command.contains("xfs") {
        XFS_BYTES
    } else {
        SIZE_BYTES
    };
    fs::File::create(path("image"))
        .unwrap()
        .set_len(size_bytes)
        .unwrap();
    let words = command.split(' ').skip(1).map(|word| match word {
        "TREE" => path("tree"),
        "LIST" => path("list"),
        word => word.into(),
    });
    let output = Command::new(program)
        .args(words)
        .arg(path("image"))
        .output()
        .unwrap();
    if !output.status.success() {
        skip(test, &format!("{command}: {output:?}"));
        return None;
    }
    fs::read(path("image")).ok()
}

/// Has all of an image pass by as it is read, in pieces.
fn read_all(gray_box: &GrayBox, image: &[u8]) {
    const PIECE: usize = 256 << 10;
    for (number, piece) in (0..).zip(image.chunks(PIECE)) {
        if piece.iter().any(|byte| *byte != 0) {
            gray_box.read(number * PIECE as u64, &Buffers::from_vec(piece));
        }
    }
}

fn is_metadata(gray_box: &GrayBox, offset: u64) -> bool {
    gray_box.class_of(offset, 512).0 == Class::Metadata
}

/// The units of an image that are content but taken for metadata, and those that are metadata but
/// taken for content, by what a unit begins with; zeros may be either.
fn mistakes(gray_box: &GrayBox, image: &[u8], unit: usize) -> (Vec<u64>, Vec<u64>) {
    let mut wrong = (Vec::new(), Vec::new());
    for (number, bytes) in (0..).zip(image.chunks(unit)) {
        let offset = number * unit as u64;
        let taken = is_metadata(gray_box, offset);
        if bytes.starts_with(MARK) {
            wrong.0.extend(taken.then_some(offset));
        } else if bytes.iter().any(|byte| *byte != 0) {
            wrong.1.extend((!taken).then_some(offset));
        }
    }
    wrong
}
