//! Bitmaps that QEMU made, before and after we write.

use super::*;
use crate::SimulatedStorage;
use crate::qcow2::qemu::Workshop;
use crate::qcow2::samples::{assert_clean, executor, fill};

/// An image with a bitmap that is kept up and one that is not.
fn image(workshop: &Workshop) -> SimulatedStorage {
    workshop.run("qemu-img create -f qcow2 image 4M");
    workshop.io("image", &["write -P 1 0 1M"]);
    workshop.run("qemu-img bitmap --add image enabled");
    workshop.run("qemu-img bitmap --add --disable image disabled");
    workshop.io("image", &["write -P 2 2M 1M"]);
    SimulatedStorage::from_bytes(&workshop.load("image"), 1)
}

async fn header(storage: &SimulatedStorage) -> Header {
    file::read_header(storage).await.unwrap()
}

/// The names of bitmaps that may not say the truth.
async fn in_use(storage: &SimulatedStorage) -> Vec<String> {
    let bitmaps = list(storage, &header(storage).await).await.unwrap();
    assert_eq!(bitmaps.len(), 2);
    let stale = bitmaps.into_iter();
    stale
        .filter(|bitmap| bitmap.flags.0 & BitmapFlags::IN_USE != 0)
        .map(|bitmap| bitmap.name)
        .collect()
}

#[test]
fn the_first_write_makes_enabled_bitmaps_stale() {
    let workshop = Workshop::new();
    let storage = image(&workshop);
    executor().run(async {
        assert!(in_use(&storage).await.is_empty());
        fill(&storage, &[]).await;
        assert!(in_use(&storage).await.is_empty());
        fill(&storage, &[(0, 1, 3)]).await;
        assert_eq!(in_use(&storage).await, ["enabled"]);
        assert_clean(&storage, "after a write").await;
    });
    workshop.store("image", &storage.to_bytes());
    assert_eq!(workshop.check("image").status, 0);
    let info = workshop.run("qemu-img info --output=json image");
    assert_eq!(info.matches("\"in-use\"").count(), 1, "{info}");
}

#[test]
fn another_size_makes_all_bitmaps_stale() {
    let workshop = Workshop::new();
    let storage = image(&workshop);
    executor().run(async {
        let header = header(&storage).await;
        crate::qcow2::resize::resize(&storage, &header, 1 << 30, 0)
            .await
            .unwrap();
        assert_eq!(in_use(&storage).await.len(), 2);
    });
    workshop.store("image", &storage.to_bytes());
    assert_eq!(workshop.check("image").status, 0);
}

#[test]
fn a_damaged_directory_is_given_up() {
    let workshop = Workshop::new();
    let storage = image(&workshop);
    executor().run(async {
        let before = header(&storage).await;
        let directory = before.bitmaps.unwrap().directory_offset;
        // A name that is longer than the directory.
        file::write(&storage, directory + 18, vec![0xFF; 2])
            .await
            .unwrap();
        fill(&storage, &[(0, 1, 3)]).await;
        let after = header(&storage).await;
        assert_eq!(after.autoclear.0 & AutoclearFeatures::BITMAPS, 0);
    });
    workshop.store("image", &storage.to_bytes());
    // The clusters that bitmaps had are leaked now, and no more is wrong.
    assert_eq!(workshop.check("image").status, 3);
}
