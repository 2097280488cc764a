//! Images made to hurt.

use super::*;
use crate::qcow2::snapshot::{self, NewSnapshot};
use crate::qcow2::{CreateOptions, create, rebase, resize};
use crate::rng::Rng;
use crate::test_support::seeded;
use crate::{BoxFuture, Storage};

/// Sound images that are not too large.
fn small_images() -> Vec<(String, Vec<u8>)> {
    let workshop = Workshop::new();
    let small = OPTIONS.into_iter().filter(|o| !o.contains("2097152"));
    small
        .map(|options| (options.to_owned(), sound_image(&workshop, options)))
        .collect()
}

fn damaged(images: &[(String, Vec<u8>)], rng: &mut Rng) -> (String, Vec<u8>) {
    let (options, sound) = &images[rng.index(images.len())];
    let mut bytes = sound.clone();
    let metadata = bytes.len().min(64 << 10);
    for _ in 0..=rng.index(8) {
        let at = 112 + rng.index(metadata - 112);
        bytes[at] ^= 1 << rng.index(8);
    }
    (options.clone(), bytes)
}

#[test]
fn random_damage_neither_hangs_nor_panics() {
    let images = small_images();
    seeded(300, |seed| {
        let (options, bytes) = damaged(&images, &mut Rng::new(seed));
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

/// Whoever changes an image as a whole meets the same damage, unchecked.
#[test]
fn changes_of_damaged_images_are_made_or_refused() {
    let images = small_images();
    seeded(300, |seed| {
        let (_, bytes) = damaged(&images, &mut Rng::new(seed));
        let storage = SimulatedStorage::from_bytes(&bytes, seed);
        executor().run(async {
            let Ok(header) = file::read_header(&storage).await else {
                return;
            };
            let new = NewSnapshot {
                name: "new".into(),
                ..NewSnapshot::default()
            };
            let bytes = header.size_bytes;
            let changes: [BoxFuture<_>; 6] = [
                Box::pin(snapshot::create(&storage, &header, &new)),
                Box::pin(snapshot::apply(&storage, &header, "1")),
                Box::pin(snapshot::delete(&storage, &header, "2")),
                Box::pin(resize::resize(&storage, &header, bytes / 3, 0)),
                Box::pin(resize::resize(&storage, &header, bytes * 3, bytes * 2)),
                Box::pin(rebase::rebase(&storage, &header, None)),
            ];
            let nth = usize::try_from(seed % 6).unwrap();
            if let Some(change) = changes.into_iter().nth(nth) {
                drop(change.await);
            }
        });
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
