//! What other engines got wrong, or did not look at.

use super::rig::Image;
use crate::Repair;
use crate::qcow2::format::{Header, IncompatibleFeatures};
use crate::qcow2::{CreateOptions, NewSnapshot, Parts, Qcow2, check, create};
use crate::test_support::content::bytes_of;
use crate::{
    Backend, Buffers, Disk, Error, Executor, Format, OpenOptions, Request, SimulatedStorage,
    Storage,
};

fn run<T>(future: impl Future<Output = T>) -> T {
    Executor::with_backend(Backend::Simulated { seed: 1 })
        .unwrap()
        .run(future)
}

async fn image(cluster_bits: u32, size_bytes: u64) -> SimulatedStorage {
    let storage = SimulatedStorage::new(0, 1).named("image");
    let options = CreateOptions {
        cluster_bits,
        ..CreateOptions::new(size_bytes)
    };
    create(&storage, &options).await.unwrap();
    storage
}

async fn open(storage: &SimulatedStorage) -> Result<Image, Error> {
    Qcow2::open(storage.clone(), Parts::default()).await
}

async fn write(disk: &dyn Disk, offset: u64, stamps: &[u64]) {
    let data = Buffers::from_vec(bytes_of(stamps));
    disk.submit(Request::write(offset, data)).await.unwrap();
}

async fn read(disk: &dyn Disk, offset: u64, len: usize) -> Vec<u8> {
    let buffers = Buffers::zeroed(len);
    disk.submit(Request::read(offset, buffers.clone()))
        .await
        .unwrap();
    buffers.to_vec()
}

fn overwrite(storage: &SimulatedStorage, offset: usize, bytes: &[u8]) -> SimulatedStorage {
    let mut content = storage.to_bytes();
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
    SimulatedStorage::from_bytes(&content, 1).named("image")
}

/// qcow2-rs writes over clusters that snapshots share.
#[test]
fn writing_leaves_snapshots_alone() {
    run(async {
        let storage = image(12, 1 << 20).await;
        let disk = open(&storage).await.unwrap();
        let before: Vec<u64> = (1..65).collect();
        write(&disk, 0, &before).await;
        let new = NewSnapshot {
            name: "before".into(),
            ..NewSnapshot::default()
        };
        disk.create_snapshot(new).await.unwrap();
        write(&disk, 512, &[100]).await;
        disk.submit(Request::discard(8192, 8192)).await.unwrap();
        disk.submit(Request::write_zeroes(16384, 4096, true))
            .await
            .unwrap();
        disk.write_compressed(20480, Buffers::zeroed(4096))
            .await
            .unwrap();
        disk.close().await.unwrap();

        let disk = open(&storage).await.unwrap();
        assert!(read(&disk, 512, 512).await == bytes_of(&[100]));
        disk.apply_snapshot("before").await.unwrap();
        assert!(read(&disk, 0, 64 * 512).await == bytes_of(&before));
        disk.close().await.unwrap();
        assert_eq!(
            check(&storage, Repair::None).await.unwrap().exit_status(),
            0
        );
    });
}

/// imago opens them, and writes to them in the clear.
#[test]
fn encrypted_images_are_refused_by_name() {
    run(async {
        let storage = image(16, 1 << 20).await;
        for (method, name) in [(2, "LUKS"), (1, "AES")] {
            let encrypted = overwrite(&storage, 32, &u32::to_be_bytes(method));
            let before = encrypted.to_bytes();
            let refused = open(&encrypted).await.err().unwrap().to_string();
            assert!(
                refused.starts_with("image: ") && refused.contains(name),
                "{refused}"
            );
            check(&encrypted, Repair::All).await.unwrap_err();
            assert!(encrypted.to_bytes() == before);
        }
    });
}

/// qcow2-rs finds the wrong data.
#[test]
fn clusters_of_512_bytes_have_their_own_data() {
    run(async {
        let sectors = 3000;
        let storage = image(9, sectors * 512).await;
        let disk = open(&storage).await.unwrap();
        // Each in its own cluster, in an order that is not theirs in the file; 47 L2 tables.
        for n in 0..sectors {
            let sector = n * 7 % sectors;
            write(&disk, sector * 512, &[sector + 1]).await;
        }
        disk.close().await.unwrap();
        let disk = open(&storage).await.unwrap();
        let expected: Vec<u64> = (1..=sectors).collect();
        assert!(read(&disk, 0, 3000 * 512).await == bytes_of(&expected));
    });
}

/// crosvm does not look at them.
#[test]
fn unknown_incompatible_features_are_refused() {
    run(async {
        let storage = image(16, 1 << 20).await;
        for bit in 5..64 {
            let strange = overwrite(&storage, 72, &(1_u64 << bit).to_be_bytes());
            let before = strange.to_bytes();
            let refused = open(&strange).await.err().unwrap();
            // That of a journal is known, and there is none here.
            let is_known = 1 << bit == IncompatibleFeatures::JOURNAL;
            let unsupported = matches!(refused, Error::Unsupported { .. });
            assert!(unsupported != is_known, "{refused}");
            check(&strange, Repair::All).await.unwrap_err();
            assert!(strange.to_bytes() == before, "bit {bit}");
        }
    });
}

/// An image that was found to be corrupt is for reading only until it is repaired.
#[test]
fn corrupt_images_are_not_written() {
    run(async {
        let storage = image(16, 1 << 20).await;
        let mark = IncompatibleFeatures::CORRUPT.to_be_bytes();
        let storage = overwrite(&storage, 72, &mark);
        let refused = open(&storage).await.err().unwrap().to_string();
        assert!(refused.contains("repair"), "{refused}");
        check(&storage, Repair::All).await.unwrap();
        open(&storage).await.unwrap();
    });
}

/// cloud-hypervisor writes in place whatever the flag says: without it, others may have the cluster.
#[test]
fn only_clusters_that_are_copied_are_written_in_place() {
    run(async {
        let storage = image(12, 1 << 20).await;
        let disk = open(&storage).await.unwrap();
        write(&disk, 0, &[1; 8]).await;
        disk.close().await.unwrap();
        let place = host_of_first(&storage);
        let disk = open(&storage).await.unwrap();
        write(&disk, 0, &[3; 8]).await;
        disk.close().await.unwrap();
        assert_eq!(
            host_of_first(&storage),
            place,
            "a cluster of its own is written in place"
        );

        let entry = l2_entry_place(&storage);
        let cleared = overwrite(&storage, entry, &place.to_be_bytes());
        let disk = open(&cleared).await.unwrap();
        write(&disk, 0, &[5; 8]).await;
        disk.close().await.unwrap();
        assert_ne!(host_of_first(&cleared), place);
        let disk = open(&cleared).await.unwrap();
        assert!(read(&disk, 0, 4096).await == bytes_of(&[5; 8]));
    });
}

fn word(storage: &SimulatedStorage, offset: usize) -> u64 {
    let bytes = storage.to_bytes();
    u64::from_be_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// Where the entry of the disk's first cluster is.
fn l2_entry_place(storage: &SimulatedStorage) -> usize {
    let header = Header::parse(&storage.to_bytes(), storage.size_bytes()).unwrap();
    let l1_entry = word(storage, usize::try_from(header.l1_offset).unwrap());
    usize::try_from(l1_entry & !(1 << 63)).unwrap()
}

/// Where the disk's first cluster is, which is nobody else's.
fn host_of_first(storage: &SimulatedStorage) -> u64 {
    let entry = word(storage, l2_entry_place(storage));
    assert_ne!(entry & 1 << 63, 0);
    entry & !(1 << 63)
}

/// CVE-2026-24708 and its like: a guest writes an image's header to its raw disk, and reads any file
/// of the host after the next start.
#[test]
fn formats_are_not_guessed_from_what_a_guest_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, [7; 4096]).unwrap();
    let header = run(async {
        let storage = SimulatedStorage::new(0, 1);
        let backing = Some((secret.to_str().unwrap().to_owned(), "raw".to_owned()));
        create(
            &storage,
            &CreateOptions {
                backing,
                ..CreateOptions::new(4096)
            },
        )
        .await
        .unwrap();
        storage.to_bytes()
    });
    let disk = directory.path().join("disk.raw");
    std::fs::write(&disk, &header).unwrap();
    Executor::new().unwrap().run(async {
        let guessed = OpenOptions::new(&disk).open().await;
        assert!(matches!(guessed, Err(Error::FormatNeeded { .. })));
        let raw = OpenOptions::new(&disk)
            .format(Format::Raw)
            .open()
            .await
            .unwrap();
        assert!(read(&*raw, 0, header.len()).await == header);
        raw.close().await.unwrap();
    });

    // The same as the backing file of an image that does not say what it is.
    let overlay = directory.path().join("overlay.qcow2");
    let bytes = run(async {
        let storage = SimulatedStorage::new(0, 1);
        let backing = Some(("disk.raw".to_owned(), "raw".to_owned()));
        create(
            &storage,
            &CreateOptions {
                backing,
                ..CreateOptions::new(4096)
            },
        )
        .await
        .unwrap();
        let mut bytes = storage.to_bytes();
        let format = bytes
            .windows(4)
            .position(|word| word == [0xE2, 0x79, 0x2A, 0xCA])
            .unwrap();
        // An extension that nobody knows in its place.
        bytes[format..format + 4].copy_from_slice(b"none");
        bytes
    });
    std::fs::write(&overlay, bytes).unwrap();
    Executor::new().unwrap().run(async {
        let opened = OpenOptions::new(&overlay)
            .format(Format::Qcow2)
            .open()
            .await;
        let refused = opened.err().unwrap().to_string();
        assert!(refused.contains("does not record the format"), "{refused}");
    });
}
