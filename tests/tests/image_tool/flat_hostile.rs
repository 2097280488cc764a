//! Flat images that somebody made to do harm.

use std::fs;
use std::path::Path;

use crate::flat::overlay;
use crate::shop::{Done, Shop};

/// The fields of a header: where they are, and how large.
const FIELDS: [(&str, usize, usize); 17] = [
    ("magic", 0, 8),
    ("version", 12, 4),
    ("incompatible", 16, 8),
    ("compatible", 24, 8),
    ("size_bytes", 32, 8),
    ("data_offset", 40, 8),
    ("covered_bytes", 48, 8),
    ("base_bytes", 56, 8),
    ("bitmap_offset", 64, 8),
    ("bitmap_bytes", 72, 8),
    ("journal_offset", 80, 8),
    ("journal_bytes", 88, 8),
    ("journal_identity", 96, 8),
    ("names_offset", 112, 8),
    ("names_bytes", 120, 4),
    ("names_crc", 124, 4),
    ("block_bits", 128, 4),
];

/// Those that a compact image has besides.
const COMPACT_FIELDS: [(&str, usize, usize); 3] = [
    ("chunk_bits", 132, 4),
    ("table_offset", 136, 8),
    ("table_bytes", 144, 8),
];

/// Those that one with snapshots has besides.
const SNAPSHOT_FIELDS: [(&str, usize, usize); 6] = [
    ("directory_offset", 152, 8),
    ("directory_bytes", 160, 8),
    ("counts_offset", 168, 8),
    ("counts_bytes", 176, 8),
    ("directory_crc", 184, 4),
    ("counts_crc", 188, 4),
];

/// Fields of which every value is one that an image may have.
const FREE: [&str; 2] = ["compatible", "journal_identity"];

/// Changes a field, and makes the checksum that of the sector.
fn change(sector: &[u8], at: usize, len: usize, value: u64) -> Vec<u8> {
    let mut sector = sector.to_vec();
    sector[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    sector[8..12].fill(0);
    let crc = crc32c::crc32c(&sector);
    sector[8..12].copy_from_slice(&crc.to_le_bytes());
    sector
}

fn value(sector: &[u8], at: usize, len: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..len].copy_from_slice(&sector[at..at + len]);
    u64::from_le_bytes(bytes)
}

/// What a command may say to an image that is broken: an error, in one line, or what it found.
#[track_caller]
fn survives(shop: &Shop, line: &str, what: &str) -> bool {
    let done = shop.image(line);
    let stderr = &done.stderr;
    assert!(
        matches!(done.status, Some(0..=3)),
        "{what}: {line}: {done:?}"
    );
    assert!(!stderr.contains("panicked"), "{what}: {line}: {stderr}");
    done.status == Some(0)
}

#[test]
fn no_value_of_any_field_does_harm() {
    try_values("-o scan=off", &FIELDS, 0);
}

#[test]
fn no_value_of_any_field_of_a_compact_image_does_harm() {
    try_values(
        "-o compact=on,scan=off",
        &[&FIELDS[..], &COMPACT_FIELDS].concat(),
        0,
    );
}

#[test]
fn no_value_of_any_field_of_an_image_with_snapshots_does_harm() {
    try_values("-o compact=on,scan=off", &SNAPSHOT_FIELDS, 2);
}

/// Tries values of each field of an image made with these options, and with some snapshots.
fn try_values(options: &str, fields: &[(&str, usize, usize)], snapshots: u32) {
    let shop = Shop::new();
    overlay(&shop, "raw", options, "5M");
    for number in 0..snapshots {
        shop.must(&format!("snapshot -c s{number} disk"));
    }
    let sound = shop.bytes("disk");
    let sector = &sound[..512];
    for &(name, at, len) in fields {
        let old = value(sector, at, len);
        let values = [
            0,
            1,
            4096,
            old ^ 512,
            old + 4096,
            old << 1,
            u64::MAX >> 1,
            u64::MAX,
        ];
        let mut refused = 0;
        for new in values.into_iter().filter(|new| *new != old) {
            shop.patch("disk", 0, &sound);
            let what = format!("{name} = {new:#x}, was {old:#x}");
            shop.patch("disk", 0, &change(sector, at, len, new));
            refused += u32::from(!survives(&shop, "map -f flat disk", &what));
            survives(&shop, "info -f flat disk", &what);
            for line in [
                "check -f flat disk",
                "convert -f flat -O raw disk seen",
                "resize -f flat disk +4k",
                "snapshot -f flat -c new disk",
                "snapshot -f flat -a s0 disk",
                "snapshot -f flat -d s0 disk",
                "check -f flat --repair all disk",
            ] {
                survives(&shop, line, &what);
            }
        }
        assert!(
            refused > 0 || FREE.contains(&name),
            "{name}: nothing is refused"
        );
    }
}

/// A small file with 64 snapshots, whose tables of 32 MiB are holes, and not what they were. All of
/// them at a time would not fit.
#[test]
fn tables_of_snapshots_are_checked_one_after_the_other() {
    const COUNT: u64 = 64;
    let (table_bytes, bitmap_bytes) = (32 << 20, 16 << 20);
    let shop = Shop::new();
    shop.must("create -f flat -o compact=on disk 8T");
    let start = fs::metadata(shop.path("disk")).unwrap().len();
    let start = start.next_multiple_of(1 << 20);
    let entry = |n: u64| {
        let table = start + (1 << 20) + n * (table_bytes + bitmap_bytes);
        // Number, date, length of the name, sizes, places, checksums, name.
        let name = u64::from_le_bytes(format!("{n:08}").as_bytes().try_into().unwrap());
        let bitmap = table + table_bytes;
        [n + 1, 0, 8 << 32, 8 << 40, 0, table, bitmap, 0, name]
    };
    let directory: Vec<u8> = (0..COUNT)
        .flat_map(entry)
        .flat_map(u64::to_le_bytes)
        .collect();
    let sector = shop.bytes("disk")[..512].to_vec();
    let crc = crc32c::crc32c(&directory).into();
    let fields = [
        (16, 8, 6),
        (152, 8, start),
        (160, 8, directory.len() as u64),
        (168, 8, start + (512 << 10)),
        (184, 4, crc),
    ];
    let sector = fields.iter().fold(sector, |sector, (at, len, value)| {
        change(&sector, *at, *len, *value)
    });
    shop.patch("disk", 0, &sector);
    shop.patch("disk", start, &directory);
    let end = start + (1 << 20) + COUNT * (table_bytes + bitmap_bytes);
    let file = fs::File::options().write(true).open(shop.path("disk"));
    file.unwrap().set_len(end).unwrap();
    let check = shop.image_command("check -f flat disk");
    let words = ["-c", "ulimit -v 1000000; exec \"$0\" \"$@\""];
    let mut limited = shop.command(Path::new("sh"), &words);
    limited.arg(check.get_program()).args(check.get_args());
    let done = Done::of(&limited.output().unwrap());
    assert_eq!(done.status, Some(2), "{done:?}");
    let findings = done.stderr.matches("are not what they were").count();
    assert_eq!(findings as u64, COUNT, "{done:?}");
}

#[test]
fn what_the_checksum_does_not_fit_is_refused() {
    let shop = Shop::new();
    overlay(&shop, "raw", "", "5M");
    for at in (0..512).step_by(7) {
        let sound = shop.bytes("disk")[at];
        shop.patch("disk", at as u64, &[sound ^ 0x40]);
        shop.refused("info -f flat disk", &["disk: damaged at offset 0"]);
        shop.patch("disk", at as u64, &[sound]);
    }
    shop.must("info -f flat disk");
}

#[test]
fn an_image_that_was_cut_off_is_refused() {
    let shop = Shop::new();
    overlay(&shop, "raw", "", "5M");
    let len = shop.bytes("disk").len() as u64;
    for cut in [len - 4096, len / 2, 4096, 511, 100, 0] {
        let file = std::fs::File::options().write(true).open(shop.path("disk"));
        file.unwrap().set_len(cut).unwrap();
        shop.refused("map -f flat disk", &["disk: damaged"]);
        shop.refused("check -f flat --repair all disk", &["disk: damaged"]);
    }
}

#[test]
fn bases_that_stand_on_the_image_itself_are_refused() {
    let shop = Shop::new();
    shop.must("create -f flat a 1M");
    shop.must("create -f flat -o scan=off -b a -F flat b");
    std::fs::rename(shop.path("b"), shop.path("a")).unwrap();
    shop.refused(
        "map -f flat a",
        &["a: its backing file", "stands on this image itself"],
    );
}
