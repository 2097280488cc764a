//! The directory, where the mount point is one: there is one file in it.

use zerocopy::IntoBytes as _;

use super::abi::{Dirent, ROOT};

/// What the file is called.
pub(crate) const FILE_NAME: &str = "disk.raw";
/// Its node.
pub(super) const FILE: u64 = ROOT + 1;

/// As `readdir` has it (`DT_DIR`, `DT_REG`).
const KIND_DIRECTORY: u32 = libc::DT_DIR as u32;
const KIND_FILE: u32 = libc::DT_REG as u32;

const ENTRIES: [(&str, u64, u32); 3] = [
    (".", ROOT, KIND_DIRECTORY),
    ("..", ROOT, KIND_DIRECTORY),
    (FILE_NAME, FILE, KIND_FILE),
];

/// The entries from number `offset` on, as many as there is room for.
pub(super) fn list(offset: u64, room: u32) -> Vec<u8> {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut listed = Vec::new();
    for ((name, ino, kind), number) in ENTRIES.into_iter().zip(1_u64..) {
        if number <= offset {
            continue;
        }
        let start = Dirent {
            ino,
            offset: number,
            name_len: u32::try_from(name.len()).unwrap_or(0),
            kind,
        };
        let mut entry = [start.as_bytes(), name.as_bytes()].concat();
        entry.resize(entry.len().next_multiple_of(8), 0);
        if listed.len() + entry.len() > room {
            break;
        }
        listed.extend(entry);
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_where_it_ended() {
        let all = list(0, 4096);
        assert_eq!(all.len(), 96);
        assert_eq!(&all[64 + 24..], FILE_NAME.as_bytes());
        assert_eq!([list(0, 70), list(2, 4096)].concat(), all);
        assert!(list(3, 4096).is_empty() && list(u64::MAX, 4096).is_empty());
        assert!(list(0, 31).is_empty());
    }
}
