//! Power cuts at any moment: what was flushed survives, and the rest is old or new.

use std::cell::RefCell;

use super::simulated;
use crate::reactor::{Operation, submit};
use crate::rng::Rng;
use crate::test_support::{join_all, program_steps, seeded};
use crate::{BoxFuture, Buffers, Disk, Raw, Request, SimulatedStorage, Storage};

const SECTORS: usize = 256;
const SIZE_BYTES: usize = SECTORS * 512;
const BATCHES: u64 = 20;

/// The stamps written to each sector, oldest first, and the first of them that may be found.
struct History {
    stamps: Vec<Vec<u64>>,
    floor: Vec<usize>,
    next_stamp: u64,
}

impl History {
    fn new() -> Self {
        Self {
            stamps: vec![vec![0]; SECTORS],
            floor: vec![0; SECTORS],
            next_stamp: 1,
        }
    }

    /// A write of new stamps to sectors that no other request in flight touches.
    fn write(&mut self, sector: usize, count: usize) -> Request {
        let mut bytes = Vec::new();
        for stamps in &mut self.stamps[sector..sector + count] {
            bytes.extend(self.next_stamp.to_le_bytes().repeat(64));
            stamps.push(self.next_stamp);
            self.next_stamp += 1;
        }
        Request::write(sector as u64 * 512, Buffers::from_vec(bytes))
    }

    /// What a flush that starts now covers, if no write is in flight.
    fn newest(&self) -> Vec<usize> {
        self.stamps.iter().map(|stamps| stamps.len() - 1).collect()
    }

    fn check(&self, content: &[u8]) {
        for (n, sector) in content.chunks(512).enumerate() {
            let stamp = u64::from_le_bytes(sector[..8].try_into().unwrap());
            let whole = sector.chunks(8).all(|word| word == stamp.to_le_bytes());
            assert!(whole, "sector {n} is torn");
            let allowed = &self.stamps[n][self.floor[n]..];
            assert!(
                allowed.contains(&stamp),
                "sector {n} has {stamp}, not one of {allowed:?}"
            );
        }
    }
}

async fn content(storage: &SimulatedStorage, len: usize) -> Vec<u8> {
    let buffers = Buffers::zeroed(len);
    storage.read_at(0, buffers.clone()).await.unwrap();
    buffers.to_vec()
}

/// Cuts the power at some moment, and looks at what is left.
async fn cut(storage: &SimulatedStorage, history: &RefCell<History>, duration_ns: u64) {
    submit(Operation::Delay { duration_ns }).await.unwrap();
    let left = storage.power_cut();
    // A flush may end while we read: it promises nothing for a cut before its end.
    let floor = history.borrow().floor.clone();
    let found = content(&left, SIZE_BYTES).await;
    let stamps = history.borrow().stamps.clone();
    History {
        stamps,
        floor,
        next_stamp: 0,
    }
    .check(&found);
}

async fn flush(disk: &dyn Disk, history: &RefCell<History>, covers: Vec<usize>) {
    disk.submit(Request::flush()).await.unwrap();
    let floor = &mut history.borrow_mut().floor;
    for (floor, covered) in floor.iter_mut().zip(covers) {
        *floor = covered.max(*floor);
    }
}

/// Writes, flushes and power cuts, all at the same time.
async fn batch(
    disk: &dyn Disk,
    storage: &SimulatedStorage,
    history: &RefCell<History>,
    rng: &mut Rng,
) {
    let mut all: Vec<BoxFuture<()>> = Vec::new();
    for _ in 0..rng.below(3) {
        let covers = history.borrow().newest();
        all.push(Box::pin(flush(disk, history, covers)));
    }
    let mut sector = rng.index(64);
    while sector < SECTORS {
        let count = (1 + rng.index(16)).min(SECTORS - sector);
        let write = history.borrow_mut().write(sector, count);
        all.push(Box::pin(async { disk.submit(write).await.unwrap() }));
        sector += count + rng.index(128);
    }
    for _ in 0..3 {
        all.push(Box::pin(cut(storage, history, rng.below(150_000))));
    }
    join_all(all).await;
}

#[test]
fn flushed_data_survives_and_the_rest_is_old_or_new() {
    seeded(60, |seed| {
        let (executor, storage) = simulated(SIZE_BYTES as u64, seed);
        let disk = Raw::new(storage.clone()).unwrap();
        let history = RefCell::new(History::new());
        let mut rng = Rng::new(seed);
        executor.run(async {
            for _ in 0..program_steps(BATCHES) {
                batch(&disk, &storage, &history, &mut rng).await;
            }
            let covers = history.borrow().newest();
            disk.close().await.unwrap();
            history.borrow_mut().floor = covers;
            cut(&storage, &history, 0).await;
        });
    });
}

/// The simulation must be as bad as it claims, or the test above shows nothing.
#[test]
fn unflushed_data_is_kept_lost_and_torn() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..50 {
        let (executor, storage) = simulated(4096, seed);
        let disk = Raw::new(storage.clone()).unwrap();
        executor.run(async {
            super::write(&disk, 0, 1, 4096).await.unwrap();
            let left = content(&storage.power_cut(), 4096).await;
            match left
                .chunks(512)
                .filter(|sector| **sector == [1; 512])
                .count()
            {
                0 => lost += 1,
                8 => kept += 1,
                _ => torn += 1,
            }
        });
    }
    assert!(
        kept > 5 && lost > 5 && torn > 5,
        "kept {kept}, lost {lost}, torn {torn}"
    );
}

#[test]
fn same_seed_gives_the_same_run() {
    let run = |seed| {
        let (executor, storage) = simulated(SIZE_BYTES as u64, seed);
        let disk = Raw::new(storage.clone()).unwrap();
        let history = RefCell::new(History::new());
        executor.run(async {
            batch(&disk, &storage, &history, &mut Rng::new(9)).await;
            let cuts: Vec<_> = (0..8).map(|_| storage.power_cut().to_bytes()).collect();
            (cuts, storage.counters())
        })
    };
    assert!(run(7) == run(7));
    assert!(run(7) != run(8));
}
