//! Images that were made to do harm: wherever a good image is changed, the engine neither panics nor
//! goes on for ever, and takes no more memory than the image is worth.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "hostile/exercise.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets use it too")]
mod exercise;
#[path = "hostile/mutate.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets use it too")]
mod mutate;
#[path = "hostile/peak.rs"]
mod peak;

use std::fs;
use std::path::PathBuf;

use disk::flat::format::BaseName;
use disk::flat::{self, Flat};
use disk::qcow2::{CreateOptions, Parts, Qcow2, create};
use disk::{Backend, Buffers, Disk, Executor, Request, SimulatedStorage};
use exercise::{Aim, exercise};
use mutate::{Numbers, mutate, reseal};

/// What is done with each.
const AIMS: [Aim; 4] = [Aim::Read, Aim::Check, Aim::Write, Aim::Repair];
/// How many images are tried, unless `MICROVM_SEEDS` says otherwise.
const IMAGES: u64 = 25_000;
/// What the simulated disk and its executor take, beside the image.
const MEMORY_BYTES: usize = 8 << 20;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is not a number")),
    )
}

/// Good images, by name: the corpus that fuzzing starts from too, and what would be large there.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    let mut paths: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read(path).unwrap())
    };
    let made = [
        ("subclusters".to_owned(), with_subclusters()),
        ("flat".to_owned(), flat(true)),
        ("flat with a journal".to_owned(), flat(false)),
        ("flat with snapshots".to_owned(), with_snapshots()),
    ];
    paths.into_iter().map(read).chain(made).collect()
}

/// A flat image that was closed, or was not, on a base that is larger, with its disk right behind
/// its metadata.
fn flat(closed: bool) -> Vec<u8> {
    let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
    executor.run(async {
        let storage = SimulatedStorage::new(0, 1);
        let mut options = flat::CreateOptions::new(64 << 10);
        (options.block_bits, options.journal_bytes) = (12, Some(1));
        options.base = Some(flat::Base {
            name: BaseName {
                name: "base".to_owned(),
                format: "raw".to_owned(),
                version: None,
            },
            size_bytes: 70 << 10,
        });
        flat::create(&storage, &options, None).await.unwrap();
        let header = flat::read_header(&storage).await.unwrap();
        let mut image = storage.to_bytes();
        image.truncate(usize::try_from(header.bitmap.end + header.size_bytes).unwrap());
        image[40..48].copy_from_slice(&header.bitmap.end.to_le_bytes());
        reseal(&mut image);
        let storage = SimulatedStorage::from_bytes(&image, 1);
        let disk = Flat::open(storage.clone(), flat::Parts::default());
        let disk = disk.await.unwrap();
        for block in [0, 1, 9] {
            let data = Buffers::from_vec([7; 1024]);
            let write = Request::write(block * 4096 + 512, data);
            disk.submit(write).await.unwrap();
            disk.submit(Request::flush()).await.unwrap();
        }
        if closed {
            disk.close().await.unwrap();
        }
        storage.to_bytes()
    })
}

/// A compact flat image with two snapshots, which share places with the disk and have their own.
fn with_snapshots() -> Vec<u8> {
    let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
    executor.run(async {
        let storage = SimulatedStorage::new(0, 1);
        let mut options = flat::CreateOptions::new(64 << 10);
        (options.block_bits, options.chunk_bits) = (12, Some(13));
        options.journal_bytes = Some(1);
        flat::create(&storage, &options, None).await.unwrap();
        // The data begins where the metadata ends, so that the image is small.
        let header = flat::read_header(&storage).await.unwrap();
        let end = header.chunks.unwrap().table.end;
        let mut image = storage.to_bytes();
        image.truncate(usize::try_from(end).unwrap());
        image[40..48].copy_from_slice(&end.to_le_bytes());
        reseal(&mut image);
        let storage = SimulatedStorage::from_bytes(&image, 1);
        let disk = Flat::open(storage.clone(), flat::Parts::default());
        let disk = disk.await.unwrap();
        for (name, block) in [("one", 0), ("two", 5)] {
            let data = Buffers::from_vec([7; 1024]);
            disk.submit(Request::write(block * 4096 + 512, data))
                .await
                .unwrap();
            let new = flat::NewSnapshot {
                name: name.to_owned(),
                ..flat::NewSnapshot::default()
            };
            disk.create_snapshot(new).await.unwrap();
        }
        disk.submit(Request::write(0, Buffers::from_vec([8; 512])))
            .await
            .unwrap();
        disk.close().await.unwrap();
        storage.to_bytes()
    })
}

fn with_subclusters() -> Vec<u8> {
    let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
    executor.run(async {
        let storage = SimulatedStorage::new(0, 1);
        let mut options = CreateOptions::new(64 << 10);
        (options.cluster_bits, options.extended_l2) = (14, true);
        create(&storage, &options).await.unwrap();
        let disk = Qcow2::open(storage.clone(), Parts::default())
            .await
            .unwrap();
        let data = Buffers::from_vec([7; 1024]);
        disk.submit(Request::write(512, data)).await.unwrap();
        disk.submit(Request::write_zeroes(20_480, 512, true))
            .await
            .unwrap();
        disk.close().await.unwrap();
        storage.to_bytes()
    })
}

/// Tries everything with an image.
fn try_all(image: &[u8]) -> [bool; AIMS.len()] {
    AIMS.map(|aim| {
        peak::start();
        let worked = exercise(image, aim);
        let peak = peak::bytes();
        assert!(peak < MEMORY_BYTES, "{aim:?} took {peak} bytes of memory");
        worked
    })
}

#[test]
fn corpus_is_in_order() {
    let corpus = corpus();
    assert!(corpus.len() > 3);
    for (name, image) in corpus {
        assert_eq!(try_all(&image), [true; AIMS.len()], "{name}");
    }
}

#[test]
fn changed_images_do_no_harm() {
    let corpus = corpus();
    let first = number("MICROVM_SEED");
    let count = number("MICROVM_SEEDS").unwrap_or(if first.is_some() { 1 } else { IMAGES });
    let first = first.unwrap_or(0);
    let mut worked = [0; AIMS.len()];
    for seed in first..first + count {
        let _replay = Replay(seed);
        let mut numbers = Numbers(seed);
        let mut image = corpus[numbers.below(corpus.len())].1.clone();
        for _ in 0..=numbers.below(4) {
            mutate(&mut image, &mut numbers);
        }
        for (sum, worked) in worked.iter_mut().zip(try_all(&image)) {
            *sum += u64::from(worked);
        }
    }
    println!(
        "{count} images from seed {first}; not refused: {:?}",
        AIMS.iter().zip(worked).collect::<Vec<_>>()
    );
    // Changes that are all refused at once would test little.
    assert!(
        count < 100
            || worked
                .iter()
                .all(|worked| *worked > count / 8 && *worked < count)
    );
}

struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed) = self;
            eprintln!(
                "to replay: MICROVM_SEED={seed} cargo test -p disk --test hostile_images -- changed_images"
            );
        }
    }
}
