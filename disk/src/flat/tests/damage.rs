//! Images with snapshots that are damaged, or were made to do harm.

use super::behaviour::{read, write};
use super::compact::{BLOCK_SECTORS, rig, submit};
use super::rig::{Rig, sectors_of, simulated};
use super::snapshots::take;
use crate::flat::format::Header;
use crate::flat::{check, read_header};
use crate::storage::{len, read as read_bytes, write as write_bytes};
use crate::{CheckReport, Disk, Error, Order, Repair};

/// An image with two snapshots: of chunk 0, and of chunks 0 to 2. The disk has places of its own for
/// chunks 0 and 3.
async fn image() -> Rig {
    let rig = rig(Order::Journal, 64, 8, None).await;
    let disk = rig.open().await.unwrap();
    write(&disk, 0, 5).await;
    take(&disk, "one").await.unwrap();
    write(&disk, 4, 6).await;
    write(&disk, 8, 7).await;
    take(&disk, "two").await.unwrap();
    write(&disk, 0, 8).await;
    write(&disk, 12, 9).await;
    disk.close().await.unwrap();
    assert_eq!(rig.check().await.exit_status(), 0);
    rig
}

/// The disk, and what it had at both snapshots, in their chunks' first sectors.
const DISK: [u64; 4] = [8, 6, 7, 9];
const ONE: [u64; 4] = [5, 2, 0, 0];
const TWO: [u64; 4] = [5, 6, 7, 0];

async fn chunks(disk: &dyn Disk) -> [u64; 4] {
    let found = sectors_of(disk).await;
    [0, 1, 2, 3].map(|chunk| found[chunk * 32])
}

async fn snapshot(rig: &Rig, name: &str) -> [u64; 4] {
    chunks(&rig.open_snapshot(name).await.unwrap()).await
}

/// Where the bytes of an image are that say something of snapshots.
#[derive(Clone, Copy)]
enum Part {
    Directory,
    Counts,
    /// The table of "two".
    Table,
}

/// Changes some bytes, and, where they are to be believed, the checksums.
async fn patch(rig: &Rig, part: Part, at: u64, bytes: &[u8], is_sealed: bool) {
    let header = read_header(&rig.image).await.unwrap();
    let parts = header.snapshots.clone().unwrap();
    let list = crate::flat::snapshots(&rig.image, &header).await.unwrap();
    let range = match part {
        Part::Directory => parts.directory.clone(),
        Part::Counts => parts.counts.clone(),
        Part::Table => list[1].table(header.chunks.as_ref().unwrap()),
    };
    write_bytes(&rig.image, range.start + at, bytes.to_vec())
        .await
        .unwrap();
    if !is_sealed {
        return;
    }
    let crc = async |range: &std::ops::Range<u64>| {
        let bytes = read_bytes(&rig.image, range.start, len(range.end - range.start));
        crc32c::crc32c(&bytes.await.unwrap())
    };
    if matches!(part, Part::Table) {
        // Both heads have 64 bytes, and the first name 3, padded to 8.
        let at = parts.directory.start + 72 + 56;
        let crc = crc(&range).await.to_le_bytes().to_vec();
        write_bytes(&rig.image, at, crc).await.unwrap();
    }
    let mut parts = parts;
    parts.directory_crc = crc(&parts.directory).await;
    parts.counts_crc = crc(&parts.counts).await;
    let header = Header {
        snapshots: Some(parts),
        ..header
    };
    write_bytes(&rig.image, 0, header.encode().0).await.unwrap();
}

async fn refusal(rig: &Rig) -> String {
    let Err(error) = rig.open().await else {
        panic!("it was opened");
    };
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    error.to_string()
}

fn problems(report: &CheckReport) -> String {
    let problems = report.findings.iter();
    problems
        .map(|finding| finding.problem.clone() + "\n")
        .collect()
}

async fn repair(rig: &Rig, repair: Repair) -> CheckReport {
    let report = check(&rig.image, repair).await.unwrap();
    let after = rig.check().await;
    assert_eq!(after.corruptions, report.corruptions, "{after:#?}");
    report
}

/// All is well, and stays so while the image is used.
async fn works(rig: &Rig, expected: [u64; 4]) {
    assert_eq!(rig.check().await.exit_status(), 0);
    let disk = rig.open().await.unwrap();
    assert_eq!(chunks(&disk).await, expected);
    for block in (0..64).step_by(2) {
        submit(&disk, block, 30).await.unwrap();
    }
    for name in disk.snapshots().iter().map(|one| one.name.clone()) {
        disk.delete_snapshot(&name).await.unwrap();
    }
    assert_eq!(chunks(&disk).await, [30; 4]);
    disk.close().await.unwrap();
    assert_eq!(rig.check().await.exit_status(), 0);
}

#[test]
fn counts_that_are_not_what_they_were_are_made_anew() {
    simulated(1, async || {
        let rig = image().await;
        patch(&rig, Part::Counts, 0, &[9], false).await;
        let problem = "the checksum of the counts of places is wrong";
        assert!(refusal(&rig).await.contains(problem));
        let report = rig.check().await;
        assert_eq!((report.exit_status(), report.corruptions), (2, 1));
        assert!(problems(&report).contains(problem));
        let report = repair(&rig, Repair::Leaks).await;
        assert_eq!((report.corruptions, report.corruptions_fixed), (1, 0));
        let report = repair(&rig, Repair::All).await;
        assert_eq!((report.corruptions, report.corruptions_fixed), (0, 1));
        assert_eq!(
            (snapshot(&rig, "one").await, snapshot(&rig, "two").await),
            (ONE, TWO)
        );
        works(&rig, DISK).await;
    });
}

/// Chunk 0 is in place 1 for both, as nothing was before. Place 4 is metadata, 900 is none.
#[test]
fn counts_that_are_too_high_are_leaks_and_those_too_low_corruption() {
    for (place, count, problem, corruptions, leaks) in [
        (
            0,
            3,
            "place 1 is counted 3 times, and 2 snapshots have it",
            0,
            1,
        ),
        (
            0,
            1,
            "place 1 is counted 1 times, and 2 snapshots have it",
            1,
            0,
        ),
        (
            0,
            0,
            "place 1 is counted 0 times, and 2 snapshots have it",
            1,
            0,
        ),
        (
            1,
            1,
            "place 2 is counted 1 times, and 0 snapshots have it",
            0,
            1,
        ),
    ] {
        simulated(1, async || {
            let rig = image().await;
            let count = u16::to_le_bytes(count);
            patch(&rig, Part::Counts, place * 2, &count, true).await;
            let report = rig.check().await;
            assert_eq!(
                (report.corruptions, report.leaks),
                (corruptions, leaks),
                "{report:#?}"
            );
            assert!(problems(&report).contains(problem), "{report:#?}");
            let report = repair(&rig, Repair::Leaks).await;
            assert_eq!((report.corruptions, report.leaks), (corruptions, 0));
            let report = repair(&rig, Repair::All).await;
            assert_eq!((report.corruptions, report.leaks), (0, 0));
            assert_eq!(
                (snapshot(&rig, "one").await, snapshot(&rig, "two").await),
                (ONE, TWO)
            );
            works(&rig, DISK).await;
        });
    }
}

/// What a snapshot's table says is believed only while it is what it was.
#[test]
fn tables_of_snapshots_that_are_not_what_they_were_are_refused_and_repaired() {
    for (entry, is_sealed, problem, expected) in [
        (
            7_u32,
            false,
            "the tables of snapshot 'two' are not what they were",
            None,
        ),
        (
            1,
            true,
            "chunk 1 of snapshot 'two' is in place 1, which is another's",
            Some([5, 0, 7, 0]),
        ),
        (
            900,
            true,
            "chunk 1 of snapshot 'two' is in place 900, which there is not",
            Some([5, 0, 7, 0]),
        ),
        (u32::MAX, true, "which there is not", Some([5, 0, 7, 0])),
        (2, true, "which there is not", Some([5, 0, 7, 0])),
    ] {
        simulated(1, async || {
            let rig = image().await;
            patch(&rig, Part::Table, 4, &entry.to_le_bytes(), is_sealed).await;
            let report = rig.check().await;
            assert!(report.corruptions > 0);
            assert!(problems(&report).contains(problem), "{report:#?}");
            let disk = rig.open().await.unwrap();
            // The disk itself is as it was.
            assert_eq!(chunks(&disk).await, DISK);
            let applied = disk.apply_snapshot("two").await;
            let deleted = disk.delete_snapshot("two").await;
            for error in [applied.unwrap_err(), deleted.unwrap_err()] {
                assert!(matches!(error, Error::Damaged { .. }), "{error}");
            }
            disk.close().await.unwrap();
            let report = repair(&rig, Repair::All).await;
            assert_eq!(report.corruptions, 0);
            assert_eq!(snapshot(&rig, "one").await, ONE);
            let found = snapshot(&rig, "two").await;
            assert_eq!((found[0], found[2]), (5, 7));
            assert!(
                expected.is_none_or(|expected| found == expected),
                "{found:?}"
            );
            works(&rig, DISK).await;
        });
    }
}

#[test]
fn a_directory_that_cannot_be_read_is_given_up_if_all_is_repaired() {
    simulated(1, async || {
        let rig = image().await;
        patch(&rig, Part::Directory, 64, b"x", false).await;
        let problem = "the checksum of the directory of snapshots is wrong";
        assert!(refusal(&rig).await.contains(problem));
        for how in [Repair::None, Repair::Leaks] {
            let report = check(&rig.image, how).await.unwrap();
            assert_eq!((report.exit_status(), report.corruptions), (2, 1));
            assert!(problems(&report).contains("lose all snapshots"));
        }
        let report = repair(&rig, Repair::All).await;
        assert_eq!((report.corruptions, report.corruptions_fixed), (0, 1));
        assert_eq!(read_header(&rig.image).await.unwrap().snapshots, None);
        works(&rig, DISK).await;
    });
}

/// Where the disk has more places than its table has room for, they stay.
#[test]
fn a_disk_keeps_its_places_when_snapshots_are_given_up() {
    simulated(1, async || {
        let rig = rig(Order::Unsafe, 4096, 0, None).await;
        let disk = rig.open().await.unwrap();
        for stamp in [1, 5000] {
            for chunk in 0..1024 {
                submit(&disk, chunk * 4, stamp + chunk).await.unwrap();
            }
            if stamp == 1 {
                take(&disk, "one").await.unwrap();
            }
        }
        disk.close().await.unwrap();
        patch(&rig, Part::Directory, 0, &[9], false).await;
        let report = repair(&rig, Repair::All).await;
        assert_eq!((report.corruptions, report.corruptions_fixed), (0, 1));
        let disk = rig.open().await.unwrap();
        for chunk in 0..1024 {
            assert_eq!(read(&disk, chunk * 4 * BLOCK_SECTORS).await, 5000 + chunk);
        }
        assert_eq!(disk.snapshots(), []);
        disk.close().await.unwrap();
        assert_eq!(rig.check().await.exit_status(), 0);
    });
}

/// Whatever a directory says in whichever field, with the right checksums.
#[test]
fn no_value_of_a_directory_does_harm() {
    let values = [
        0,
        1,
        511,
        4096,
        1 << 20,
        1 << 40,
        u64::MAX >> 1,
        u64::MAX - 4095,
        u64::MAX,
    ];
    for at in (0..64).step_by(4) {
        for value in values {
            simulated(1, async || {
                let rig = image().await;
                let bytes = value.to_le_bytes();
                patch(&rig, Part::Directory, at, &bytes[..4], true).await;
                patch_all(&rig, at, &bytes).await;
                drop(rig.check().await);
                if let Ok(disk) = rig.open().await {
                    for name in ["one", "two"] {
                        drop(disk.apply_snapshot(name).await);
                        drop(take(&disk, &format!("after {name}")).await);
                        drop(disk.delete_snapshot(name).await);
                        drop(submit(&disk, 0, 1).await);
                    }
                    drop(disk.close().await);
                }
                drop(rig.open_snapshot("one").await);
                let repaired = check(&rig.image, Repair::All).await;
                if let Ok(report) = repaired {
                    assert_eq!(report.corruptions, 0, "{at}: {value:#x}: {report:#?}");
                    assert_eq!(rig.check().await.corruptions, 0);
                }
            });
        }
    }
}

/// The same with all of a field of 8 bytes, where the directory still is one.
async fn patch_all(rig: &Rig, at: u64, bytes: &[u8]) {
    let header = read_header(&rig.image).await.unwrap();
    if at.is_multiple_of(8) && crate::flat::snapshots(&rig.image, &header).await.is_ok() {
        patch(rig, Part::Directory, at, bytes, true).await;
    }
}
