//! What the simulation promises to those who test with it.

mod barrier;

use super::*;
use crate::test_support::{join_all, seeded};
use crate::{Backend, Error, Executor, Storage};

fn executor(seed: u64) -> Executor {
    Executor::with_backend(Backend::Simulated { seed }).unwrap()
}

async fn read(storage: &SimulatedStorage, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
    let buffers = Buffers::zeroed(len);
    storage.read_at(offset, buffers.clone()).await?;
    Ok(buffers.to_vec())
}

/// The host may transfer less than it was asked to; a format sees all of it or an error.
#[test]
fn reads_are_whole_though_they_are_done_in_parts() {
    let mut torn = 0;
    seeded(50, |seed| {
        let storage = SimulatedStorage::from_bytes(&[1; 8192], seed);
        executor(seed).run(async {
            let write = async {
                let bytes = Buffers::from_vec([2; 8192]);
                storage.write_at(0, bytes).await.unwrap();
            };
            let mut found = Vec::new();
            let read_meanwhile = async { found = read(&storage, 0, 8192).await.unwrap() };
            let both: [crate::BoxFuture<()>; 2] = [Box::pin(write), Box::pin(read_meanwhile)];
            join_all(both).await;
            assert!(found.iter().all(|byte| [1, 2].contains(byte)));
            torn += u32::from(found.contains(&1) && found.contains(&2));
            assert!(read(&storage, 0, 8192).await.unwrap() == [2; 8192]);
            let past_the_end = read(&storage, 8000, 500).await.unwrap_err();
            assert!(past_the_end.to_string().contains("8000"), "{past_the_end}");
        });
    });
    // With one seed to replay, it may not happen.
    assert!(torn > 0 || std::env::var_os("MICROVM_SEED").is_some());
}

#[test]
fn unreadable_sectors_heal_when_they_are_written() {
    let storage = SimulatedStorage::from_bytes(&[1; 8192], 1).named("old.img");
    executor(1).run(async {
        storage.make_unreadable(700..1030);
        assert!(read(&storage, 0, 512).await.unwrap() == [1; 512]);
        assert!(read(&storage, 1536, 512).await.unwrap() == [1; 512]);
        let error = read(&storage, 0, 8192).await.unwrap_err().to_string();
        assert!(error.starts_with("old.img: cannot read 8192 bytes at 0: Input/output error"));
        // Half a sector does not do.
        let bytes = Buffers::from_vec([2; 768]);
        storage.write_at(512, bytes).await.unwrap();
        read(&storage, 512, 512).await.unwrap();
        read(&storage, 1024, 512).await.unwrap_err();
        storage.write_zeroes(1024, 512, true).await.unwrap();
        assert!(read(&storage, 1024, 512).await.unwrap() == [0; 512]);
    });
}

#[test]
fn rot_flips_bits_and_survives_a_power_cut() {
    let storage = SimulatedStorage::from_bytes(&[0; 5000], 1);
    storage.rot(4900..5000, 1);
    let bytes = storage.to_bytes();
    let flipped: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    assert_eq!(flipped, 1);
    assert!(bytes[4900..].iter().any(|byte| *byte != 0));
    assert!((0..20).all(|_| storage.power_cut().to_bytes() == bytes));
}

#[test]
fn latency_is_spent_on_the_virtual_clock() {
    let storage = SimulatedStorage::new(1 << 20, 1);
    let model = LatencyModel {
        channels: 1,
        ..LatencyModel::nvme()
    };
    storage.set_latency(model);
    let executor = executor(1);
    executor.run(async {
        let one = async || drop(read(&storage, 0, 4096).await.unwrap());
        one().await;
        let alone_ns = executor.virtual_now_ns().unwrap();
        assert_eq!(alone_ns, model.read_ns + model.page_ns);
        join_all((0..3).map(|_| one())).await;
        assert_eq!(executor.virtual_now_ns(), Some(4 * alone_ns));
        storage.sync().await.unwrap();
        let end_ns = 4 * alone_ns + model.sync_ns;
        assert_eq!(executor.virtual_now_ns(), Some(end_ns));
        storage.barrier().await.unwrap();
        let end_ns = end_ns + model.barrier_ns;
        assert_eq!(executor.virtual_now_ns(), Some(end_ns));
    });
}

#[test]
fn only_simulations_have_a_virtual_clock() {
    let executor = Executor::with_backend(Backend::Threads).unwrap();
    assert_eq!(executor.virtual_now_ns(), None);
}
