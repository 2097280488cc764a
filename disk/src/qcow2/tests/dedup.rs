//! Images that store data that is alike once: models, power cuts and errors, and what is saved.

use std::cell::Cell;

use super::crash::run_on_and_cut;
use super::faults::fail_some_writes;
use super::geometry::Geometry;
use super::model::run_on;
use super::peer::agrees;
use crate::qcow2::format::IncompatibleFeatures;
use crate::qcow2::qemu::is_installed;
use crate::qcow2::rewrite::switch;
use crate::qcow2::{
    CreateOptions, DedupOptions, Parts, Qcow2, check, create, file as stored, recover,
};
use crate::rng::Rng;
use crate::test_support::content::bytes_of;
use crate::test_support::power_cuts::Tally;
use crate::test_support::{seeded, skip};
use crate::{
    Backend, Buffers, DedupHint, Disk, Executor, Repair, Request, SimulatedStorage, Storage as _,
};

/// Its programs are other ones than those of the other tests.
const FIRST_SEED: u64 = 1 << 33;

fn sharing(seed: u64) -> Geometry {
    let mut rng = Rng::new(seed);
    Geometry::any(&mut rng).sharing(&mut rng)
}

#[test]
fn programs_that_share_read_what_they_wrote() {
    let shared = Cell::new(0);
    seeded(600, |seed| {
        run_on(&sharing(seed), seed, async |_, run| {
            shared.set(shared.get() + run.disk().statistics().dedup.shared_bytes);
            run.finish().await;
        });
    });
    println!("qcow2: {} bytes were shared", shared.get());
    assert!(shared.get() > 0);
}

/// An image of 4 MiB with clusters of 4 KiB.
async fn open(storage: &SimulatedStorage, index_bytes: u64) -> Qcow2<SimulatedStorage> {
    if storage.size_bytes() == 0 {
        let mut options = CreateOptions::new(4 << 20);
        options.cluster_bits = 12;
        create(storage, &options).await.unwrap();
    }
    let dedup = Some(DedupOptions {
        index_bytes,
        key: [1; 32],
    });
    let parts = Parts {
        dedup,
        ..Parts::default()
    };
    Qcow2::open(storage.clone(), parts).await.unwrap()
}

/// So many clusters of a file that has nothing twice.
fn file(clusters: u64) -> Buffers {
    let stamps: Vec<_> = (1..=clusters * 8).collect();
    Buffers::from_vec(bytes_of(&stamps))
}

async fn read(disk: &dyn Disk, offset: u64, len: usize) -> Vec<u8> {
    let buffers = Buffers::zeroed(len);
    let request = Request::read(offset, buffers.clone());
    disk.submit(request).await.unwrap();
    buffers.to_vec()
}

fn simulated(test: impl AsyncFnOnce(SimulatedStorage)) {
    let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
    executor.run(test(SimulatedStorage::new(0, 1)));
}

const MIB: u64 = 1 << 20;

#[test]
fn a_copy_takes_no_space_and_both_go_their_ways() {
    simulated(async |storage| {
        let disk = open(&storage, 1 << 20).await;
        let data = file(256);
        disk.submit(Request::write(0, data.clone())).await.unwrap();
        let before = storage.size_bytes();
        disk.submit(Request::write(2 * MIB, data.clone()))
            .await
            .unwrap();
        assert_eq!(disk.statistics().dedup.shared_bytes, MIB);
        assert!(storage.size_bytes() < before + MIB / 2, "it was written");
        let other = Buffers::from_vec(vec![0xee; 512]);
        disk.submit(Request::write(512, other.clone()))
            .await
            .unwrap();
        disk.submit(Request::write(2 * MIB + 8192, other))
            .await
            .unwrap();
        let (mut first, mut second) = (data.to_vec(), data.to_vec());
        first[512..1024].fill(0xee);
        second[8192..8704].fill(0xee);
        assert_eq!(read(&disk, 0, 1 << 20).await, first);
        assert_eq!(read(&disk, 2 * MIB, 1 << 20).await, second);
        disk.close().await.unwrap();
        let report = check(&storage, Repair::None).await.unwrap();
        assert_eq!(report.exit_status(), 0, "{report:#?}");
    });
}

#[test]
fn zeros_take_no_space() {
    simulated(async |storage| {
        let disk = open(&storage, 1 << 20).await;
        disk.submit(Request::write(0, file(256))).await.unwrap();
        disk.submit(Request::write(0, Buffers::zeroed(1 << 20)))
            .await
            .unwrap();
        assert_eq!(disk.statistics().dedup.shared_bytes, MIB);
        assert_eq!(read(&disk, 0, 1 << 20).await, vec![0; 1 << 20]);
        disk.close().await.unwrap();
    });
}

/// With room for one cluster in a hundred, nothing is found of a file that was written before, unless
/// it was read just before, to be copied.
#[test]
fn copies_are_found_by_hint_where_memory_is_short() {
    for (hint, shared) in [(DedupHint::None, 0), (DedupHint::Prefetch, MIB)] {
        simulated(async |storage| {
            let disk = open(&storage, 64 * 32).await;
            disk.submit(Request::write(0, file(256))).await.unwrap();
            let piece = 64 << 10;
            for at in (0..MIB).step_by(piece) {
                let buffers = Buffers::zeroed(piece);
                let read = Request::read(at, buffers.clone()).with_dedup_hint(hint);
                disk.submit(read).await.unwrap();
                let write = Request::write(2 * MIB + at, buffers).with_dedup_hint(hint);
                disk.submit(write).await.unwrap();
            }
            assert_eq!(disk.statistics().dedup.shared_bytes, shared, "{hint:?}");
            disk.close().await.unwrap();
        });
    }
}

/// A damaged image may say that compressed data begins where another cluster is. With refcounts of one
/// bit, that cluster can have no second reference.
#[test]
fn a_cluster_with_two_entries_is_not_counted_beyond_its_refcount() {
    simulated(async |storage| {
        let mut options = CreateOptions::new(4 << 20);
        (options.cluster_bits, options.refcount_bits) = (12, 1);
        create(&storage, &options).await.unwrap();
        let disk = open(&storage, 1 << 20).await;
        disk.submit(Request::write(0, file(1))).await.unwrap();
        disk.close().await.unwrap();
        let (at, first, _) = second_entry(&storage).await;
        let compressed = (first & !(1 << 63)) | 1 << 62;
        stored::write(&storage, at, compressed.to_be_bytes().to_vec())
            .await
            .unwrap();
        let disk = open(&storage, 1 << 20).await;
        for at in [0, 4096] {
            disk.submit(Request::write(at, file(1))).await.unwrap();
        }
        assert_eq!(read(&disk, 4096, 4096).await, file(1).to_vec());
        disk.close().await.unwrap();
    });
}

/// What its tables are taken for may be something else.
#[test]
fn recovery_sets_no_flags_in_an_image_that_is_marked_corrupt() {
    for is_corrupt in [false, true] {
        simulated(async |storage| {
            let disk = open(&storage, 1 << 20).await;
            for at in [0, 4096] {
                disk.submit(Request::write(at, file(1))).await.unwrap();
            }
            disk.submit(Request::discard(0, 4096)).await.unwrap();
            disk.submit(Request::flush()).await.unwrap();
            let left = SimulatedStorage::from_bytes(&storage.to_bytes(), 1);
            disk.close().await.unwrap();
            let mut header = stored::read_header(&left).await.unwrap();
            header.incompatible =
                (header.incompatible).with(IncompatibleFeatures::CORRUPT, is_corrupt);
            switch(&left, &header).await.unwrap();
            recover(&left).await.unwrap();
            let (_, _, entry) = second_entry(&left).await;
            assert_eq!(entry >> 63 == 0, is_corrupt);
        });
    }
}

/// Of the disk's second cluster, the entry of its L2 table; where that is, and the first entry.
async fn second_entry(storage: &SimulatedStorage) -> (u64, u64, u64) {
    let word = async |at| {
        let bytes = stored::read(storage, at, 8).await.unwrap();
        u64::from_be_bytes(bytes.try_into().unwrap())
    };
    let l1_offset = stored::read_header(storage).await.unwrap().l1_offset;
    let table = word(l1_offset).await & !(1 << 63);
    (table + 8, word(table).await, word(table + 8).await)
}

#[test]
fn what_is_unique_is_not_looked_for() {
    simulated(async |storage| {
        let disk = open(&storage, 1 << 20).await;
        for at in [0, 2 * MIB] {
            let write = Request::write(at, file(256)).with_dedup_hint(DedupHint::NoDedup);
            disk.submit(write).await.unwrap();
        }
        let counts = disk.statistics().dedup;
        assert_eq!((counts.looked_up_bytes, counts.shared_bytes), (0, 0));
        assert_eq!(counts.unique_bytes, 2 * MIB);
        disk.close().await.unwrap();
    });
}

#[test]
fn power_cuts_lose_nothing_that_is_shared() {
    let tally = Tally::default();
    seeded(120, |seed| {
        let mut rng = Rng::new(seed);
        let geometry = Geometry::small(&mut rng).sharing(&mut rng);
        tally.add(seed, run_on_and_cut(&geometry, rng, seed, None));
    });
    tally.print("qcow2: sharing, ");
}

#[test]
fn power_cuts_after_errors_lose_nothing_that_is_shared() {
    let tally = Tally::default();
    seeded(30, |seed| {
        let mut rng = Rng::new(seed);
        let geometry = Geometry::small(&mut rng).sharing(&mut rng);
        let errors = Some(fail_some_writes as fn(&_, &mut _));
        tally.add(seed, run_on_and_cut(&geometry, rng, seed, errors));
    });
    tally.print("qcow2: sharing, after errors, ");
}

#[test]
fn qemu_reads_what_is_shared() {
    if !is_installed() {
        skip(
            "qcow2::tests::dedup::qemu_reads_what_is_shared",
            "there is no qemu-img here",
        );
        return;
    }
    seeded(10, |seed| {
        let seed = seed + FIRST_SEED;
        run_on(&sharing(seed), seed, async |rig, run| {
            run.read_all().await;
            run.close().await;
            agrees(rig, run);
        });
    });
}
