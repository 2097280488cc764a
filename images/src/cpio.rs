//! Writes the archive that the kernel unpacks as its initial RAM file system: the `newc` format
//! of cpio (Linux Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::path::{Component, Path};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive in the making. All in it belongs to root and is dated 1970, so the same content
/// always makes the same bytes.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

/// What the header of an entry tells beside its name and length.
#[derive(Default)]
struct Attributes {
    mode: u32,
    device: (u32, u32),
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory that all may read, and those above it; one that is there is left as it is.
    pub fn directory(&mut self, path: impl AsRef<Path>) {
        let mut name = String::new();
        for part in parts(path.as_ref()) {
            if !name.is_empty() {
                name.push('/');
            }
            name.push_str(&part);
            if self.directories.insert(name.clone()) {
                self.entry(
                    &name,
                    &Attributes {
                        mode: DIRECTORY | 0o755,
                        device: (0, 0),
                    },
                    &[],
                );
            }
        }
    }

    /// Adds a file with the permission bits `mode`, and the directories above it.
    ///
    /// # Panics
    /// When `content` is 4 GiB or more, which the format cannot hold.
    pub fn file(&mut self, path: impl AsRef<Path>, mode: u32, content: &[u8]) {
        let attributes = Attributes {
            mode: REGULAR | mode,
            device: (0, 0),
        };
        self.member(path.as_ref(), &attributes, content);
    }

    /// Adds a symbolic link to `target`, and the directories above it.
    pub fn symlink(&mut self, path: impl AsRef<Path>, target: &str) {
        let attributes = Attributes {
            mode: SYMLINK | 0o777,
            device: (0, 0),
        };
        self.member(path.as_ref(), &attributes, target.as_bytes());
    }

    /// Adds a character device with the permission bits `mode` and its major and minor number.
    pub fn character_device(&mut self, path: impl AsRef<Path>, mode: u32, device: (u32, u32)) {
        let attributes = Attributes {
            mode: CHARACTER_DEVICE | mode,
            device,
        };
        self.member(path.as_ref(), &attributes, &[]);
    }

    /// Ends the archive and gives its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, &Attributes::default(), &[]);
        self.bytes
    }

    fn member(&mut self, path: &Path, attributes: &Attributes, content: &[u8]) {
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        let name = parts(path).collect::<Vec<_>>().join("/");
        self.entry(&name, attributes, content);
    }

    fn entry(&mut self, name: &str, attributes: &Attributes, content: &[u8]) {
        let name_bytes = field_len(name.len() + 1);
        let content_bytes = field_len(content.len());
        self.inode += 1;
        let links = if attributes.mode & DIRECTORY == 0 {
            1
        } else {
            2
        };
        let (major, minor) = attributes.device;
        let fields = [
            self.inode,
            attributes.mode,
            0, // the owner's number
            0, // the group's number
            links,
            0, // the time of the last change
            content_bytes,
            0, // the device that holds the entry: major
            0, // and minor
            major,
            minor,
            name_bytes,
            0, // a checksum, which only the `crc` format has
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Names and contents end on a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn field_len(len: usize) -> u32 {
    u32::try_from(len).expect("a newc archive holds files below 4 GiB")
}

/// The names along `path`, relative to the root of the archive.
fn parts(path: &Path) -> impl Iterator<Item = String> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry as a reader sees it.
    #[derive(Debug, PartialEq, Eq)]
    struct Entry {
        name: String,
        mode: u32,
        links: u32,
        device: (u32, u32),
        content: Vec<u8>,
    }

    fn entry(name: &str, mode: u32, content: &[u8]) -> Entry {
        let links = if mode & DIRECTORY == 0 { 1 } else { 2 };
        Entry {
            name: name.into(),
            mode,
            links,
            device: (0, 0),
            content: content.into(),
        }
    }

    /// Reads an archive by the letter of the format's description.
    fn read(archive: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(at % 4, 0);
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |index: usize| {
                let start = at + 6 + 8 * index;
                let digits = str::from_utf8(&archive[start..start + 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let name_end = at + 110 + field(11) as usize;
            assert_eq!(archive[name_end - 1], 0);
            let name = String::from_utf8(archive[at + 110..name_end - 1].to_vec()).unwrap();
            let start = name_end.next_multiple_of(4);
            let end = start + field(6) as usize;
            if name == TRAILER {
                assert_eq!(end.next_multiple_of(4), archive.len());
                return entries;
            }
            let content = archive[start..end].to_vec();
            let device = (field(9), field(10));
            entries.push(Entry {
                name,
                mode: field(1),
                links: field(4),
                device,
                content,
            });
            at = end.next_multiple_of(4);
        }
    }

    #[test]
    fn every_kind_of_entry_comes_back() {
        let mut archive = Archive::new();
        archive.character_device("/dev/console", 0o600, (5, 1));
        archive.symlink("bin/sh", "busybox");
        for len in 0..5 {
            archive.file(format!("f{len}"), 0o644, &b"abcde"[..len]);
        }
        let entries = read(&archive.finish());
        let console = Entry {
            device: (5, 1),
            ..entry("dev/console", 0o020_600, b"")
        };
        let expected = [
            entry("dev", 0o040_755, b""),
            console,
            entry("bin", 0o040_755, b""),
            entry("bin/sh", 0o120_777, b"busybox"),
            entry("f0", 0o100_644, b""),
            entry("f1", 0o100_644, b"a"),
            entry("f2", 0o100_644, b"ab"),
            entry("f3", 0o100_644, b"abc"),
            entry("f4", 0o100_644, b"abcd"),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn directories_above_a_file_come_first_and_once() {
        let mut archive = Archive::new();
        archive.file("/a/b/one", 0o755, b"1");
        archive.directory("a/b");
        archive.file("a/two", 0o755, b"2");
        let names: Vec<_> = read(&archive.finish())
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/two"]);
    }
}
