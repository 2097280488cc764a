//! Zeros and data, on simulated disks and on files.

use std::cell::Cell;

use super::*;
use crate::reactor::{Operation, submit};
use crate::rng::Rng;
use crate::test_support::{join_all, real_backends, seeded};
use crate::{
    Backend, BoxFuture, Buffers, Executor, Fault, FaultyOperation, FileOptions, SimulatedStorage,
};

/// As large as that the steps are the usual ones.
const UNIT_BYTES: u64 = 65536;
const MIB: u64 = 1 << 20;
/// What an allocator hands out.
const CLUSTER_BYTES: u64 = 16 << 10;

/// Lets others go on, and the time of a simulation.
async fn pause() {
    let duration_ns = 20_000;
    submit(Operation::Delay { duration_ns }).await.unwrap();
}

/// What a program stands on, and how far it has come.
struct Shop<'a, S> {
    storage: &'a S,
    growth: Growth,
    allocated_end: Cell<u64>,
    writers: Cell<u64>,
}

impl<'a, S: Storage> Shop<'a, S> {
    fn new(storage: &'a S, used_end: u64, writers: u64) -> Self {
        Self {
            storage,
            growth: Growth::new(storage, used_end, UNIT_BYTES),
            allocated_end: Cell::new(used_end),
            writers: Cell::new(writers),
        }
    }

    /// Takes new places and writes to them.
    async fn write(&self, mut rng: Rng, count: u64) {
        for _ in 0..count {
            let offset = self.allocated_end.get();
            // Now and then, a place is left out.
            let offset = offset + CLUSTER_BYTES * u64::from(rng.below(20) == 0);
            self.allocated_end.set(offset + CLUSTER_BYTES);
            self.growth.claim(offset..offset + CLUSTER_BYTES).await;
            let bytes = vec![byte(offset); usize::try_from(CLUSTER_BYTES).unwrap()];
            let data = Buffers::from_vec(bytes);
            self.storage.write_at(offset, data).await.unwrap();
        }
        self.writers.set(self.writers.get() - 1);
    }

    /// Grows ahead of the others.
    async fn grow(&self) {
        while self.writers.get() > 0 {
            self.growth.flushed();
            self.growth.grow(self.storage).await;
            pause().await;
        }
    }

    /// Gives back at moments that are as good as any.
    async fn give_back(&self, mut rng: Rng) {
        while self.writers.get() > 0 {
            if rng.below(20) == 0 {
                let used_end = self.allocated_end.get();
                self.growth.give_back(self.storage, used_end).await.unwrap();
            }
            pause().await;
        }
    }

    async fn run(&self, seed: u64, count: u64) {
        let mut rng = Rng::new(seed);
        let writers = (0..self.writers.get())
            .map(|_| Box::pin(self.write(Rng::new(rng.next()), count)) as BoxFuture<()>);
        let mut tasks: Vec<BoxFuture<()>> = writers.collect();
        tasks.push(Box::pin(self.grow()));
        tasks.push(Box::pin(self.give_back(Rng::new(rng.next()))));
        join_all(tasks).await;
    }
}

/// The byte that is written to a cluster.
fn byte(offset: u64) -> u8 {
    u8::try_from(offset / CLUSTER_BYTES % 255).unwrap() + 1
}

/// Each cluster has what was written to it, or is one that was left out; how many were not.
fn check(content: &[u8]) -> usize {
    let clusters = content.chunks(usize::try_from(CLUSTER_BYTES).unwrap());
    let written = clusters.zip(0..).filter(|(cluster, n)| {
        let byte = byte(n * CLUSTER_BYTES);
        let is_whole = cluster.iter().all(|found| *found == byte);
        assert!(is_whole || cluster.iter().all(|found| *found == 0), "{n}");
        is_whole
    });
    written.count()
}

#[test]
fn zeros_never_meet_data() {
    seeded(20, |seed| {
        let storage = SimulatedStorage::new(0, seed);
        let shop = Shop::new(&storage, 0, 3);
        let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
        executor.run(shop.run(seed, 60));
        assert_eq!(check(&storage.to_bytes()), 180);
        assert!(shop.growth.statistics().written_ahead_bytes > 0);
        executor.run(async {
            storage.sync().await.unwrap();
            let left = storage.power_cut();
            assert_eq!(check(&left.to_bytes()), 180);
            let end = shop.allocated_end.get();
            shop.growth.give_back(&storage, end).await.unwrap();
        });
        assert_eq!(storage.size_bytes(), shop.allocated_end.get());
    });
}

/// Runs `test` on a disk of which nothing is in use.
fn simulated(test: impl AsyncFnOnce(&SimulatedStorage, Growth)) {
    let storage = SimulatedStorage::new(0, 1);
    let growth = Growth::new(&storage, 0, UNIT_BYTES);
    let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
    executor.run(test(&storage, growth));
}

#[test]
fn steps_double_while_they_are_used_up_and_halve_when_given_back() {
    simulated(async |storage, growth| {
        assert!(!growth.wants_more(), "nobody has used the file");
        let mut end = 0;
        let mut ahead = async |used_bytes: u64| {
            growth.pass_over(end..end + used_bytes).await;
            end += used_bytes;
            growth.grow(storage).await;
            storage.size_bytes() - end
        };
        assert_eq!(ahead(4096).await, MIB);
        assert_eq!(ahead(MIB / 2 - 4096).await, MIB / 2 + 4096, "half is left");
        assert_eq!(ahead(4096).await, 2 * MIB);
        assert_eq!(ahead(2 * MIB).await, 4 * MIB);
        assert_eq!(ahead(4 * MIB).await, 8 * MIB);
        assert_eq!(ahead(8 * MIB).await, 8 * MIB, "little is in use");
        let used_bytes = end;
        growth.give_back(storage, used_bytes).await.unwrap();
        assert_eq!(storage.size_bytes(), used_bytes);
        assert_eq!(growth.statistics().given_back_bytes, 8 * MIB);
        assert!(!growth.wants_more(), "nobody has used the file since");
        growth.pass_over(used_bytes..used_bytes + 4096).await;
        growth.grow(storage).await;
        assert_eq!(storage.size_bytes(), used_bytes + 4096 + 4 * MIB);
    });
}

/// A sync of much data takes long enough without zeros that are written as well.
#[test]
fn bulk_writes_are_not_grown_for() {
    simulated(async |storage, growth| {
        growth.claim(0..4 * MIB).await;
        assert!(!growth.wants_more());
        growth.flushed();
        assert!(!growth.wants_more());
        growth.claim(4 * MIB..4 * MIB + 4096).await;
        for _ in 0..3 {
            growth.flushed();
        }
        assert!(growth.wants_more());
        growth.grow(storage).await;
        assert!(storage.size_bytes() > 4 * MIB);
    });
}

#[test]
fn errors_and_a_full_host_end_the_growth_and_nothing_else() {
    simulated(async |storage, growth| {
        storage.inject(Fault::new(FaultyOperation::Write, libc::EDQUOT));
        growth.claim(0..4096).await;
        growth.grow(storage).await;
        growth.claim(4096..1 << 30).await;
        assert!(!growth.wants_more());
        growth.give_back(storage, 1 << 30).await.unwrap();
    });
    simulated(async |storage, growth| {
        storage.set_capacity_bytes(4 * MIB);
        growth.claim(0..4096).await;
        growth.grow(storage).await;
        assert_eq!(storage.size_bytes(), 4096 + MIB / 2);
        growth.pass_over(4096..4096 + MIB / 2).await;
        storage.set_capacity_bytes(MIB);
        growth.grow(storage).await;
        assert_eq!(storage.size_bytes(), 4096 + MIB / 2);
        assert!(!growth.wants_more());
    });
}

#[test]
fn files_grow_by_data_and_are_cut() {
    for backend in real_backends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let storage = FileOptions::new(file.path()).open().unwrap();
        let shop = Shop::new(&storage, 0, 3);
        // Whether or not it helps on this file system.
        shop.growth.stopped.set(false);
        Executor::with_backend(backend).unwrap().run(async {
            shop.run(1, 100).await;
            assert_eq!(check(&std::fs::read(file.path()).unwrap()), 300);
            let end = shop.allocated_end.get();
            shop.growth.give_back(&storage, end).await.unwrap();
            assert_eq!(file.as_file().metadata().unwrap().len(), end);
            shop.growth.pass_over(end..end + CLUSTER_BYTES).await;
            for _ in 0..4 {
                shop.growth.flushed();
            }
            shop.growth.grow(&storage).await;
            let start = end + CLUSTER_BYTES;
            let ahead = storage.extent(start, 1 << 40).await.unwrap();
            assert!(ahead.data && ahead.len >= MIB, "{ahead:?}");
        });
        assert_eq!(check(&std::fs::read(file.path()).unwrap()), 300);
    }
}
