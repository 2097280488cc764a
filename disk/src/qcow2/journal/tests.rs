//! Images that were killed while they were open, with their journals whole and damaged.

use super::*;
use crate::Repair;
use crate::qcow2::format::{IncompatibleFeatures, UnknownExtension};
use crate::qcow2::samples::{SEED, assert_clean, content, executor, fill, image, open};
use crate::qcow2::{CreateOptions, check};
use crate::{Buffers, Disk as _, Request, SimulatedStorage};

const DISK_BYTES: u64 = 1 << 20;

fn options() -> CreateOptions {
    CreateOptions::new(DISK_BYTES)
}

fn backed(name_bytes: usize) -> CreateOptions {
    CreateOptions {
        backing: Some(("b".repeat(name_bytes), "raw".into())),
        ..options()
    }
}

/// An image with one cluster of ones, killed after it had two flushes of twos, and one of threes.
async fn killed(options: &CreateOptions) -> SimulatedStorage {
    let storage = image(options).await;
    fill(&storage, &[(0, 128, 1)]).await;
    let disk = open(&storage).await;
    for (offset, byte) in [(1 << 17, 2), (1 << 18, 2), (1 << 19, 3)] {
        let buffers = Buffers::from_vec(vec![byte; 65536]);
        disk.submit(Request::write(offset, buffers)).await.unwrap();
        disk.submit(Request::flush()).await.unwrap();
    }
    let left = SimulatedStorage::from_bytes(&storage.to_bytes(), SEED);
    disk.close().await.unwrap();
    left
}

async fn header(storage: &SimulatedStorage) -> Header {
    file::read_header(storage).await.unwrap()
}

async fn region_start(storage: &SimulatedStorage) -> u64 {
    header(storage).await.journal.unwrap().region.start
}

async fn erase(storage: &SimulatedStorage, offset: u64) {
    file::write(storage, offset, vec![0; 4096]).await.unwrap();
}

#[test]
fn a_check_says_what_waits_and_touches_nothing() {
    executor().run(async {
        let storage = killed(&options()).await;
        let found = inspect(&storage, &header(&storage).await).await.unwrap();
        let found = found.unwrap();
        assert_eq!((found.transactions, found.dropped), (3, false));
        let before = storage.to_bytes();
        for repair in [Repair::None, Repair::Leaks, Repair::All] {
            let report = check(&storage, repair).await.unwrap();
            assert_eq!((report.exit_status(), report.check_errors), (1, 1));
            let expected = format!(
                "not closed: 3 transactions ({} bytes) wait in its journal; opening it for \
                 writing, or check --repair leaks, brings them home",
                found.bytes
            );
            assert_eq!(report.findings[0].problem, expected);
        }
        assert!(storage.to_bytes() == before);
        recover(&storage).await.unwrap();
        assert_clean(&storage, "recovered").await;
        assert_eq!(content(&storage).await[1 << 19], 3);
    });
}

#[test]
fn an_image_that_is_marked_corrupt_is_recovered_and_keeps_the_mark() {
    executor().run(async {
        let storage = killed(&options()).await;
        let mut marked = header(&storage).await;
        marked.incompatible = (marked.incompatible).with(IncompatibleFeatures::CORRUPT, true);
        crate::qcow2::rewrite::switch(&storage, &marked)
            .await
            .unwrap();
        let report = recover(&storage).await.unwrap().unwrap();
        assert_eq!(report.transactions, 3);
        let incompatible = header(&storage).await.incompatible;
        assert!(incompatible.has(IncompatibleFeatures::CORRUPT));
        assert_eq!(
            check(&storage, Repair::Leaks).await.unwrap().exit_status(),
            0
        );
        assert_eq!(content(&storage).await[1 << 19], 3);
    });
}

/// Whether it is the superblock or a transaction that is lost, and wherever the backing file's
/// name is, only the last writes are lost.
#[test]
fn a_damaged_journal_is_given_up() {
    for (options, record) in [
        (options(), 0),
        (options(), 1),
        (backed(10), 0),
        (backed(200), 0),
        (backed(900), 1),
    ] {
        executor().run(async {
            let storage = killed(&options).await;
            let before = header(&storage).await;
            erase(&storage, region_start(&storage).await + record * 4096).await;
            let report = check(&storage, Repair::All).await.unwrap();
            let problem = &report.findings[0].problem;
            assert!(problem.contains("check --repair all gives"), "{problem}");
            let refused = recover(&storage).await.unwrap_err();
            assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
            give_up_journal(&storage).await.unwrap();
            let after = header(&storage).await;
            assert_eq!(after.backing_file, before.backing_file);
            assert_eq!(after.backing_format, before.backing_format);
            assert_eq!(after.size_bytes, before.size_bytes);
            assert_eq!(after.journal, None);
            let report = check(&storage, Repair::All).await.unwrap();
            assert_eq!(report.exit_status(), 0, "{report:?}");
            let content = content(&storage).await;
            assert!(content[..65536].iter().all(|byte| *byte == 1));
        });
    }
}

/// The one write goes to one sector, which a power cut leaves old or new.
#[test]
fn giving_up_is_one_write_of_a_sector() {
    executor().run(async {
        let storage = killed(&backed(300)).await;
        let before = storage.to_bytes();
        give_up_journal(&storage).await.unwrap();
        let after = storage.to_bytes();
        assert!(after[..512] != before[..512]);
        assert!(after[512..] == before[512..]);
        give_up_journal(&storage).await.unwrap();
        assert!(storage.to_bytes() == after);
    });
}

/// Bitmaps' and other extensions of the image survive, and so do fields that only it has.
#[test]
fn extensions_survive_giving_up() {
    executor().run(async {
        let storage = image(&options()).await;
        let mut with = header(&storage).await;
        with.unknown_extensions.push(UnknownExtension {
            kind: 0x1234_5678,
            data: vec![7; 20],
        });
        file::write(&storage, 0, with.encode().unwrap())
            .await
            .unwrap();
        let disk = open(&storage).await;
        let buffers = Buffers::from_vec(vec![1; 512]);
        disk.submit(Request::write(0, buffers)).await.unwrap();
        let left = SimulatedStorage::from_bytes(&storage.to_bytes(), SEED);
        disk.close().await.unwrap();
        assert!(header(&left).await.journal.is_some());
        give_up_journal(&left).await.unwrap();
        let kept = header(&left).await.unknown_extensions;
        assert_eq!(kept, with.unknown_extensions);
    });
}
