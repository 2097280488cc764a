//! Images made to hurt.

use super::*;
use crate::Storage;
use crate::qcow2::{CreateOptions, create};
use crate::rng::Rng;
use crate::test_support::seeded;

#[test]
fn random_damage_neither_hangs_nor_panics() {
    let workshop = Workshop::new();
    let images = sound_images(&workshop);
    seeded(300, |seed| {
        let mut rng = Rng::new(seed);
        let (options, sound) = &images[rng.index(images.len() - 1)];
        let mut bytes = sound.clone();
        let metadata = bytes.len().min(64 << 10);
        for _ in 0..=rng.index(8) {
            let at = 112 + rng.index(metadata - 112);
            bytes[at] ^= 1 << rng.index(8);
        }
        let storage = SimulatedStorage::from_bytes(&bytes, seed);
        let Ok(before) = executor().run(check(&storage, Repair::None)) else {
            return;
        };
        let after = executor().run(check(&storage, Repair::All)).unwrap();
        assert!(
            after.corruptions <= before.corruptions,
            "{options}: {before:?} {after:?}"
        );
    });
}

/// The file says that it is huge, and is all holes.
#[test]
fn what_is_not_there_costs_nothing() {
    executor().run(async {
        let storage = SimulatedStorage::new(0, 1);
        let options = CreateOptions {
            cluster_bits: 9,
            ..CreateOptions::new(1 << 30)
        };
        create(&storage, &options).await.unwrap();
        storage.set_len(1 << 60).await.unwrap();
        let report = check(&storage, Repair::All).await.unwrap();
        assert_eq!(report.exit_status(), 0);
        assert!(storage.counters().reads < 2000);
    });
}

#[test]
fn a_table_that_is_used_often_is_walked_once() {
    executor().run(async {
        let storage = SimulatedStorage::new(0, 1);
        let options = CreateOptions::new(1 << 40);
        let header = create(&storage, &options).await.unwrap();
        let offset = storage.size_bytes().next_multiple_of(1 << 16);
        // Every L1 entry leads to the same table, all of whose entries lead to the same cluster.
        for (at, entries, to) in [
            (offset, 8192, offset + 0x10000),
            (offset + 0x10000, 8192, 0),
            (header.l1_offset, header.l1_entries, offset),
        ] {
            let bytes = to.to_be_bytes().repeat(file::len(entries.into()));
            file::write(&storage, at, bytes).await.unwrap();
        }
        let report = check(&storage, Repair::None).await.unwrap();
        assert_eq!(report.exit_status(), 2);
        assert!(storage.counters().reads < 2000);
    });
}
