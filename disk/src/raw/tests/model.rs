//! Random requests, several at a time, on every kind of storage, against memory.

use std::cell::RefCell;

use super::{file, simulated};
use crate::rng::Rng;
use crate::test_support::{join_all, program_steps, real_backends, scattered, seeded};
use crate::{Buffers, Disk, Executor, FileOptions, Op, OpenOptions, Raw, Request};

const SECTORS: usize = 512;
pub(super) const SIZE_BYTES: usize = SECTORS * 512;
const BATCHES: u64 = 150;

/// What a sector holds: a byte everywhere, or nobody knows after a discard.
type Model = [Option<u8>; SECTORS];

fn bytes_of(sectors: usize) -> u64 {
    sectors as u64 * 512
}

fn sectors_of(bytes: u64) -> usize {
    usize::try_from(bytes / 512).unwrap()
}

/// Requests whose ranges do not overlap.
fn batch(rng: &mut Rng) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut sector = rng.index(64);
    while sector < SECTORS {
        let count = (1 + rng.index(40)).min(SECTORS - sector);
        let (offset, len) = (bytes_of(sector), bytes_of(count));
        let bytes: Vec<u8> = (0..count)
            .flat_map(|_| [rng.next().to_le_bytes()[0]; 512])
            .collect();
        requests.push(match rng.below(8) {
            0..=2 => Request::read(offset, scattered(&bytes, rng)),
            3..=5 => Request::write(offset, scattered(&bytes, rng)),
            6 => Request::discard(offset, len),
            _ => Request::write_zeroes(offset, len, rng.coin()),
        });
        if rng.below(8) == 0 {
            requests.push(Request::flush());
        }
        sector += count + rng.index(64);
    }
    requests
}

fn check(model: &Model, offset: u64, bytes: &[u8]) {
    let first = sectors_of(offset);
    for (n, sector) in bytes.chunks(512).enumerate() {
        if let Some(byte) = model[first + n] {
            assert!(
                sector.iter().all(|b| *b == byte),
                "sector {} is wrong",
                first + n
            );
        }
    }
}

async fn run_request(disk: &dyn Disk, model: &RefCell<Model>, request: Request) {
    disk.submit(request.clone()).await.unwrap();
    let range = sectors_of(request.offset)..sectors_of(request.offset + request.len);
    let model = &mut *model.borrow_mut();
    match request.op {
        Op::Read(buffers) => check(model, request.offset, &buffers.to_vec()),
        Op::Write(buffers) => {
            let bytes = buffers.to_vec();
            for (sector, content) in model[range].iter_mut().zip(bytes.chunks(512)) {
                *sector = Some(content[0]);
            }
        }
        Op::Flush => {}
        Op::Discard => model[range].fill(None),
        Op::WriteZeroes { .. } => model[range].fill(Some(0)),
    }
}

pub(super) async fn run(disk: &dyn Disk, seed: u64) {
    let mut rng = Rng::new(seed);
    let model = RefCell::new([Some(0); SECTORS]);
    for _ in 0..program_steps(BATCHES) {
        let requests = batch(&mut rng);
        join_all(
            requests
                .into_iter()
                .map(|request| run_request(disk, &model, request)),
        )
        .await;
    }
    let everything = Buffers::zeroed(SIZE_BYTES);
    disk.submit(Request::read(0, everything.clone()))
        .await
        .unwrap();
    check(&model.borrow(), 0, &everything.to_vec());
    disk.close().await.unwrap();
    assert_eq!(disk.statistics().errors, 0);
}

#[test]
fn files_agree_with_the_model() {
    for backend in real_backends() {
        for (seed, direct) in [(1, false), (2, false), (3, true), (4, true)] {
            println!("{backend:?}, seed {seed}, direct {direct}");
            let file = file(SIZE_BYTES as u64);
            Executor::with_backend(backend).unwrap().run(async {
                let disk = match OpenOptions::new(file.path()).direct(direct).open().await {
                    Err(error) if direct => return println!("skipped: {error}"),
                    disk => disk.unwrap(),
                };
                run(&*disk, seed).await;
            });
        }
    }
}

#[test]
fn simulations_agree_with_the_model() {
    seeded(5, |seed| {
        let (executor, storage) = simulated(SIZE_BYTES as u64, seed);
        let disk = Raw::new(storage).unwrap();
        executor.run(run(&disk, seed));
    });
}

/// As on a device whose blocks are larger than sectors: neighbours share a block, so that writes
/// must read it first, and must not undo each other.
#[test]
fn large_blocks_agree_with_the_model() {
    for backend in real_backends() {
        for seed in 10..14 {
            println!("{backend:?}, seed {seed}");
            let file = file(SIZE_BYTES as u64);
            Executor::with_backend(backend).unwrap().run(async {
                let mut storage = FileOptions::new(file.path()).open().unwrap();
                storage.assume_large_blocks(8192);
                run(&Raw::new(storage).unwrap(), seed).await;
            });
        }
    }
}
