use serde_json::json;

use super::super::question::Stat;
use super::*;

const FILE: FileId = FileId {
    device: 0xfe01,
    inode: 12,
};
const WRITER: Caller<'_> = Caller {
    executable: b"/bin/dd",
    pid: 7,
};

fn opened(file: FileId, size_bytes: u64) -> OpenFile {
    OpenFile::new(Some(Stat {
        device: file.device,
        inode: file.inode,
        mode: 0o100_644,
        links: 1,
        size_bytes,
    }))
}

fn access(at_ms: u64, start: u64, len: u64) -> Access {
    Access {
        at_ms,
        file: FILE,
        position: Some(start),
        len,
        size_bytes: 0,
    }
}

/// A file of 8 blocks that is written, overwritten, truncated and unlinked.
fn life_of_a_file() -> Report {
    let mut report = Report::default();
    report.called(1000, WRITER);
    report.opened(1000, &opened(FILE, 0), 7);
    report.named(FILE, Some(b"/srv/made"));
    report.wrote(WRITER, access(1000, 0, 32_768));
    report.called(1001, WRITER);
    report.wrote(WRITER, access(1001, 0, 16_384));
    report.truncated(1010, FILE, 8192);
    report.unlinked(3000, FILE, 1);
    report
}

#[test]
fn a_life_is_told_of_in_json() {
    let summary = life_of_a_file().summary(5000);
    let found = serde_json::to_value(&summary).unwrap();
    assert_eq!(found["observed_ms"], 4000);
    assert_eq!(
        found["processes"],
        json!([{
            "executable": "/bin/dd", "processes": 1, "calls": 2,
            "reads": 0, "read_bytes": 0, "writes": 2, "written_bytes": 49_152,
        }])
    );
    assert_eq!(
        found["files"],
        json!([{
            "path": "/srv/made", "device": "254:1", "inode": 12, "size_bytes": 8192,
            "opens": 1, "processes": 1, "ended": 1,
            "reads": 0, "read_bytes": 0, "writes": 2, "written_bytes": 49_152,
        }])
    );
    let bucket = |from_ms: u64, count: u64, bytes: u64| {
        let bucket = json!({"from_ms": from_ms, "count": count, "bytes": bytes});
        json!([bucket])
    };
    let lifetimes = &found["lifetimes"];
    assert_eq!(lifetimes["files"], bucket(1024, 1, 8192));
    assert_eq!(lifetimes["files_alive"], 0);
    assert_eq!(lifetimes["blocks"]["overwritten"], bucket(1, 4, 16_384));
    assert_eq!(lifetimes["blocks"]["unlinked"], bucket(1024, 2, 8192));
    assert_eq!(lifetimes["blocks"]["alive"], 0);
    let truncated = &lifetimes["blocks"]["truncated"];
    assert_eq!(truncated, &bucket(8, 6, 24_576));
    assert_eq!(found["working_sets"][0]["window_s"], 1);
    assert_eq!(found["limits"]["one_block_in"], 1);
    let back: Summary = serde_json::from_value(found).unwrap();
    assert_eq!(back, summary);
}

#[test]
fn a_life_is_told_of_in_words() {
    let mut summary = life_of_a_file().summary(5000);
    let mut classes = disk::ClassStatistics::default();
    classes[disk::Class::Metadata].written_bytes = 1024;
    classes[disk::Class::Other].written_bytes = 3072;
    summary.disks = vec![DiskRow::new("blk0".to_owned(), &classes)];
    let text = table(&summary, 20);
    for part in [
        "seen for 4.0 s\n",
        "metadata: - of the bytes read, 25.0% of those written\n",
        "READS  READ  WRITES  WRITTEN  CALLS  PROCESSES  EXECUTABLE\n",
        "    0   0 B       2   48 KiB      2          1  /bin/dd\n",
        "    0   0 B       2   48 KiB  8 KiB      1          1      1  /srv/made\n",
        "    0    0 B            4          0         0  < 2 ms\n",
        "    1  8 KiB            0          0         2  < 2.0 s\n",
        "written and still there: 0 files, 0 blocks\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(table(&summary, 0).contains("and 1 more\n"));
}

#[test]
fn a_read_has_no_bytes_behind_the_end() {
    let mut report = Report::default();
    report.opened(0, &opened(FILE, 5000), 7);
    assert_eq!(report.read(WRITER, access(0, 0, 4096)), 4096);
    assert_eq!(report.read(WRITER, access(0, 4096, 4096)), 904);
    assert_eq!(report.read(WRITER, access(0, 5000, 4096)), 0);
    assert_eq!(report.read(WRITER, access(0, u64::MAX, u64::MAX)), 0);
    let summary = report.summary(0);
    assert_eq!(summary.files[0].traffic.read_bytes, 5000);
    assert_eq!(summary.files[0].traffic.reads, 4);
    assert_eq!(summary.working_sets[0].read_blocks, 2);
}

#[test]
fn a_file_with_another_name_goes_on() {
    let mut report = Report::default();
    report.opened(0, &opened(FILE, 0), 7);
    report.wrote(WRITER, access(0, 0, 4096));
    report.unlinked(10, FILE, 2);
    assert_eq!(report.summary(10).lifetimes.files_alive, 1);
    assert_eq!(report.summary(10).limits.unlinks_of_linked, 1);
    report.unlinked(20, FILE, 1);
    report.unlinked(20, FILE, 1);
    let summary = report.summary(20);
    assert_eq!(summary.lifetimes.files_alive, 0);
    assert_eq!(summary.lifetimes.files.len(), 1);
    assert_eq!(summary.limits.unlinks_of_unknown, 1);
}

#[test]
fn a_file_that_became_smaller_unseen_has_no_old_blocks() {
    let mut report = Report::default();
    report.opened(0, &opened(FILE, 0), 7);
    report.wrote(WRITER, access(0, 0, 1 << 20));
    report.opened(0, &opened(FILE, 512), 8);
    let summary = report.summary(0);
    assert_eq!(summary.limits.ends_unseen, 1);
    assert!(summary.lifetimes.blocks.truncated.is_empty());
    assert_eq!(summary.lifetimes.blocks.alive, 1);
    assert_eq!((summary.files[0].opens, summary.files[0].processes), (2, 2));
}

#[test]
fn a_file_that_is_empty_when_it_is_met_was_emptied_then() {
    let mut report = Report::default();
    report.opened(0, &opened(FILE, 0), 7);
    report.wrote(WRITER, access(0, 0, 8192));
    report.opened(100, &opened(FILE, 0), 8);
    let summary = report.summary(200);
    assert_eq!(summary.limits.ends_unseen, 0);
    let truncated = &summary.lifetimes.blocks.truncated;
    assert_eq!((truncated[0].from_ms, truncated[0].count), (64, 2));
    assert_eq!(summary.lifetimes.blocks.alive, 0);
}

#[test]
fn what_is_not_known_is_said() {
    let mut report = Report::default();
    let somewhere = Access {
        position: None,
        size_bytes: 100,
        ..access(0, 0, 50)
    };
    report.wrote(WRITER, somewhere);
    assert_eq!(report.read(WRITER, somewhere), 50);
    report.transferred();
    report.mapped();
    report.opened(0, &OpenFile::new(None), 7);
    report.truncated(0, FileId::default(), 0);
    let summary = report.summary(0);
    assert_eq!(summary.limits.positions_unknown, 2);
    assert_eq!((summary.limits.transfers, summary.limits.maps), (1, 1));
    assert_eq!(summary.files.len(), 1);
    let text = table(&summary, 20);
    assert!(
        text.contains("2 reads and writes at unknown places\n"),
        "{text}"
    );
}

#[test]
fn rows_are_bounded_and_the_largest_are_kept() {
    let mut report = Report::default();
    for inode in 0..3000 {
        let file = FileId { inode, ..FILE };
        report.wrote(
            WRITER,
            Access {
                file,
                ..access(0, 0, 1 + inode)
            },
        );
    }
    let summary = report.summary(0);
    assert_eq!(summary.files.len(), 1000);
    assert_eq!(summary.limits.files_left_out, 2000);
    assert_eq!(summary.files[0].traffic.written_bytes, 3000);
    assert_eq!(summary.files[999].traffic.written_bytes, 2001);
}
