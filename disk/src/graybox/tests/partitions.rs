//! Partition tables, written here as their specifications have them.

use super::{SIZE_BYTES, image, is_metadata, mistakes};
use crate::graybox::GrayBox;
use crate::{Buffers, Classifier as _};

/// An entry of a master boot record.
pub(super) fn entry(kind: u8, start: u32, sectors: u32) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..].copy_from_slice(&sectors.to_le_bytes());
    entry
}

pub(super) fn record(entries: &[[u8; 16]]) -> Vec<u8> {
    let mut record = vec![0; 512];
    for (place, entry) in record[446..].chunks_mut(16).zip(entries) {
        place.copy_from_slice(entry);
    }
    record[510..].copy_from_slice(&[0x55, 0xAA]);
    record
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

/// A GUID partition table, its header at block 1, with one partition.
fn gpt(block: usize, first: u64, last: u64) -> Vec<u8> {
    let mut entries = vec![0; 128 * 128];
    entries[..16].fill(9);
    entries[32..40].copy_from_slice(&first.to_le_bytes());
    entries[40..48].copy_from_slice(&last.to_le_bytes());
    let mut header = vec![0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..84].copy_from_slice(&128_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&crc32(&entries));
    let crc = crc32(&header);
    header[16..20].copy_from_slice(&crc);
    let mut table = record(&[entry(0xEE, 1, u32::MAX)]);
    table.resize(block, 0);
    table.extend(header);
    table.resize(2 * block, 0);
    table.extend(entries);
    table
}

fn read(gray_box: &GrayBox, offset: u64, bytes: &[u8]) {
    for (number, piece) in (0..).zip(bytes.chunks(512 * 40)) {
        gray_box.read(offset + number * 512 * 40, &Buffers::from_vec(piece));
    }
}

/// A disk with an ext4 at each of `starts`, behind a table.
#[track_caller]
fn check(table: &[(u64, Vec<u8>)], starts: &[u64]) {
    let test = "file_systems_are_found_in_partitions";
    let Some(image) = image(test, "mke2fs -q -F -d TREE -t ext4 -b 4096") else {
        return;
    };
    let gray_box = GrayBox::new(SIZE_BYTES * 3);
    for (offset, bytes) in table {
        // As the kernel reads a page, and then the next.
        read(&gray_box, *offset, bytes);
    }
    for (offset, _) in table {
        assert!(is_metadata(&gray_box, *offset), "{offset}");
    }
    for start in starts {
        for _ in 0..2 {
            read(&gray_box, *start, &image);
        }
    }
    let mut disk = vec![0; usize::try_from(SIZE_BYTES * 3).unwrap()];
    for start in starts {
        let start = usize::try_from(*start).unwrap();
        disk[start..start + image.len()].copy_from_slice(&image);
    }
    for (offset, bytes) in table {
        let offset = usize::try_from(*offset).unwrap();
        disk[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    // The units are those of the file systems, which begin at multiples of 512.
    let unit = if starts.iter().all(|start| start % 4096 == 0) {
        4096
    } else {
        512
    };
    let (content, metadata) = mistakes(&gray_box, &disk, unit);
    assert!(
        content.is_empty(),
        "content is taken for metadata: {content:?}"
    );
    assert!(unit < 4096 || metadata.is_empty(), "{metadata:?}");
}

#[test]
fn file_systems_are_found_in_partitions() {
    let sectors = u32::try_from(SIZE_BYTES / 512).unwrap();
    let one = 2048 * 512;
    check(&[(0, record(&[entry(0x83, 2048, sectors)]))], &[one]);
    // One behind the other in an extended partition.
    let (base, second) = (2048, sectors + 4096);
    let chain = [
        (0, record(&[entry(0x05, base, 2 * sectors + 8192)])),
        (
            u64::from(base) * 512,
            record(&[
                entry(0x83, 2048, sectors),
                entry(0x05, second, sectors + 2048),
            ]),
        ),
        (
            u64::from(base + second) * 512,
            record(&[entry(0x83, 2048, sectors)]),
        ),
    ];
    let starts = [base + 2048, base + second + 2048].map(|sector| u64::from(sector) * 512);
    check(&chain, &starts);
    for block in [512, 4096] {
        let first = one / block as u64;
        let last = first + SIZE_BYTES / block as u64 - 1;
        check(&[(0, gpt(block, first, last))], &[one]);
    }
}

/// What a table says wrongly is as if there was none.
#[test]
fn bad_tables_are_none() {
    let good = record(&[entry(0x83, 8, 100)]);
    let mut unsigned = good.clone();
    unsigned[510] = 0;
    let mut active = good.clone();
    active[446] = 0x33;
    let past_the_end = record(&[entry(0x83, 8, 1 << 20)]);
    let two = record(&[entry(0x83, 8, 100), entry(0x83, 50, 100)]);
    let mut bad_gpt = gpt(512, 64, 1000);
    bad_gpt[1024 + 40] ^= 1;
    for (table, is_table) in [
        (good, true),
        (unsigned, false),
        (active, false),
        (past_the_end, false),
    ] {
        let gray_box = GrayBox::new(1 << 20);
        read(&gray_box, 0, &table);
        assert_eq!(is_metadata(&gray_box, 0), is_table);
    }
    for table in [two, bad_gpt] {
        let gray_box = GrayBox::new(1 << 20);
        read(&gray_box, 0, &table);
        // The whole disk is a volume still, and nobody knows what is in it.
        assert!(!is_metadata(&gray_box, 4096));
        assert_eq!(gray_box.seen.borrow().volumes.len(), 1);
    }
}
