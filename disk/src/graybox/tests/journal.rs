//! The journal of an ext4, written here as the kernel's documentation has it, in an image that
//! `mke2fs` has made.

use super::{SIZE_BYTES, image, is_metadata, read_all};
use crate::graybox::GrayBox;
use crate::{Buffers, Classifier as _};

const BLOCK: u64 = 4096;
/// Blocks that nothing is in.
const FREE: [u64; 2] = [9000, 9001];
const MAGIC: u32 = 0xC03B_3998;

/// What a journal's features make of its blocks.
#[derive(Clone, Copy)]
struct Version {
    features: u32,
    tag_bytes: usize,
}

const VERSIONS: [Version; 5] = [
    Version {
        features: 0x12,
        tag_bytes: 16,
    },
    Version {
        features: 0x10,
        tag_bytes: 16,
    },
    Version {
        features: 0x2,
        tag_bytes: 12,
    },
    Version {
        features: 0xA,
        tag_bytes: 14,
    },
    Version {
        features: 0,
        tag_bytes: 8,
    },
];

fn block(parts: &[&[u8]]) -> Buffers {
    let mut bytes = parts.concat();
    bytes.resize(4096, 0);
    Buffers::from_vec(bytes)
}

fn header(kind: u32) -> Vec<u8> {
    [MAGIC, kind, 7].map(u32::to_be_bytes).concat()
}

fn low(number: u64) -> u32 {
    u32::try_from(number).unwrap()
}

impl Version {
    fn superblock(self) -> Buffers {
        let numbers = [4096, 1024, 1, 1, 0, 0, 0, self.features].map(u32::to_be_bytes);
        block(&[&header(4), &numbers.concat()])
    }

    /// Tags of blocks, the first of which has a UUID behind it.
    fn descriptor(self, tags: &[(u64, u16)]) -> Buffers {
        let mut bytes = header(1);
        for (number, (home, flags)) in tags.iter().enumerate() {
            let last = if number + 1 == tags.len() { 8 } else { 0 };
            let flags = flags | last | if number > 0 { 2 } else { 0 };
            let mut tag = low(*home).to_be_bytes().to_vec();
            if self.features & 0x10 == 0 {
                tag.extend([0, 0]);
                tag.extend(flags.to_be_bytes());
            } else {
                tag.extend(u32::from(flags).to_be_bytes());
            }
            tag.resize(self.tag_bytes, 0);
            if number == 0 {
                tag.extend([5; 16]);
            }
            bytes.extend(tag);
        }
        block(&[&bytes])
    }

    fn revoke(self, blocks: &[u64]) -> Buffers {
        let records: Vec<u8> = blocks
            .iter()
            .flat_map(|block| match self.features & 2 {
                0 => low(*block).to_be_bytes().to_vec(),
                _ => block.to_be_bytes().to_vec(),
            })
            .collect();
        let count = u32::try_from(16 + records.len()).unwrap();
        block(&[&header(5), &count.to_be_bytes(), &records])
    }
}

/// An image whose file system is in use, and where its journal begins.
fn in_use() -> Option<(GrayBox, u64)> {
    // Without checksums, so that the superblock can be changed here.
    let command = "mke2fs -q -F -t ext4 -b 4096 -O ^metadata_csum";
    let mut image = image("journal", command)?;
    image[1024 + 0x60] |= 4;
    let start = image
        .chunks(4096)
        .position(|block| block.starts_with(&header(4)[..8]))
        .unwrap();
    let gray_box = GrayBox::new(SIZE_BYTES);
    read_all(&gray_box, &image);
    Some((gray_box, start as u64))
}

/// A block of a directory with one entry.
fn directory() -> Buffers {
    block(&[&[11, 0, 0, 0, 0, 16, 4, 1], b"name"])
}

fn content() -> Buffers {
    Buffers::from_vec([7; 4096])
}

#[test]
fn a_tag_makes_metadata_and_a_revoke_record_ends_it() {
    for version in VERSIONS {
        let Some((gray_box, journal)) = in_use() else {
            return;
        };
        let write = |block: u64, content: &Buffers| gray_box.written(block * BLOCK, content);
        let are_metadata = || FREE.map(|block| is_metadata(&gray_box, block * BLOCK));
        write(journal, &version.superblock());
        assert_eq!(are_metadata(), [false, false]);
        write(
            journal + 1,
            &version.descriptor(&[(FREE[0], 0), (FREE[1], 0)]),
        );
        assert_eq!(are_metadata(), [true, true], "{:#x}", version.features);
        write(journal + 2, &directory());
        write(journal + 3, &directory());
        write(FREE[0], &directory());
        assert_eq!(are_metadata(), [true, true]);
        write(journal + 5, &version.revoke(&[FREE[0]]));
        assert_eq!(are_metadata(), [false, true], "{:#x}", version.features);
        // Whatever it looks like, it is content now.
        write(FREE[0], &directory());
        assert_eq!(are_metadata(), [false, true]);
    }
}

/// With `data=journal`, tags name content too: it does not look like metadata.
#[test]
fn journaled_content_is_content() {
    let Some((gray_box, journal)) = in_use() else {
        return;
    };
    let version = VERSIONS[0];
    let write = |block: u64, content: &Buffers| gray_box.written(block * BLOCK, content);
    write(journal, &version.superblock());
    // The second has the journal's magic number at its start, and zeros in the copy.
    write(
        journal + 1,
        &version.descriptor(&[(FREE[0], 0), (FREE[1], 1)]),
    );
    write(journal + 2, &directory());
    write(journal + 3, &content());
    assert!(is_metadata(&gray_box, FREE[0] * BLOCK));
    assert!(!is_metadata(&gray_box, FREE[1] * BLOCK));
}

#[test]
fn what_is_discarded_is_metadata_no_more() {
    let Some((gray_box, journal)) = in_use() else {
        return;
    };
    let tags = VERSIONS[0].descriptor(&[(FREE[0], 0), (FREE[1], 0)]);
    gray_box.written(journal * BLOCK, &VERSIONS[0].superblock());
    gray_box.written((journal + 1) * BLOCK, &tags);
    let after = FREE[1] * BLOCK + 512;
    gray_box.discarded(FREE[0] * BLOCK..after);
    assert!(!is_metadata(&gray_box, FREE[0] * BLOCK));
    assert!(
        is_metadata(&gray_box, FREE[1] * BLOCK),
        "half of it is left"
    );
    assert!(is_metadata(&gray_box, 0));
    gray_box.discarded(0..SIZE_BYTES);
    assert!(!is_metadata(&gray_box, 0));
}
