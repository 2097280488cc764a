//! Images of all kinds for tests, and what is asked of them everywhere.

use super::{CreateOptions, Parts, Qcow2, check, create, recover};
use crate::{Backend, Buffers, Disk, Executor, Recording, Request, SimulatedStorage};
use crate::{CheckReport, Repair};

pub(crate) const SEED: u64 = 1;

pub(crate) fn executor() -> Executor {
    Executor::with_backend(Backend::Simulated { seed: SEED }).unwrap()
}

/// Cluster sizes from the smallest to the largest, with all refcount widths; fewer of the slowest.
pub(crate) fn kinds() -> Vec<CreateOptions> {
    let mut kinds = vec![CreateOptions {
        version: 2,
        ..CreateOptions::new(disk_bytes(16))
    }];
    for cluster_bits in [9, 12, 16, 21] {
        let widths: &[u64] = if cluster_bits == 21 {
            &[1, 2, 16]
        } else {
            &[1, 2, 4, 8, 16, 32, 64]
        };
        for &refcount_bits in widths {
            for extended_l2 in [false, true] {
                if !extended_l2 || cluster_bits == 16 {
                    kinds.push(CreateOptions {
                        cluster_bits,
                        refcount_bits,
                        extended_l2,
                        ..CreateOptions::new(disk_bytes(cluster_bits))
                    });
                }
            }
        }
    }
    kinds
}

/// A disk of 400 KiB or a cluster and a half, and an odd number of sectors.
fn disk_bytes(cluster_bits: u32) -> u64 {
    (3 << (cluster_bits - 1)).max(400 << 10) + 5 * 512
}

pub(crate) async fn image(options: &CreateOptions) -> SimulatedStorage {
    let storage = SimulatedStorage::new(0, SEED);
    create(&storage, options).await.unwrap();
    storage
}

pub(crate) async fn open(storage: &SimulatedStorage) -> Qcow2<SimulatedStorage> {
    Qcow2::open(storage.clone(), Parts::default())
        .await
        .unwrap()
}

/// A first sector, how many, and the byte that fills them.
pub(crate) type Range = (u64, usize, u8);

/// Has the engine fill ranges, and leave the image closed.
pub(crate) async fn fill(storage: &SimulatedStorage, ranges: &[Range]) {
    let disk = open(storage).await;
    for (sector, sectors, byte) in ranges {
        let buffers = Buffers::from_vec(vec![*byte; sectors * 512]);
        let write = Request::write(sector * 512, buffers);
        disk.submit(write).await.unwrap();
    }
    disk.close().await.unwrap();
}

/// All that the disk holds.
pub(crate) async fn content(storage: &SimulatedStorage) -> Vec<u8> {
    let disk = open(storage).await;
    let len = usize::try_from(disk.properties().size_bytes).unwrap();
    let buffers = Buffers::zeroed(len);
    disk.submit(Request::read(0, buffers.clone()))
        .await
        .unwrap();
    disk.close().await.unwrap();
    buffers.to_vec()
}

pub(crate) async fn verdict(storage: &SimulatedStorage) -> CheckReport {
    check(storage, Repair::None).await.unwrap()
}

pub(crate) async fn assert_clean(storage: &SimulatedStorage, what: &str) {
    let report = verdict(storage).await;
    assert_eq!(report.exit_status(), 0, "{what}: {report:?}");
}

/// Cuts the power at every step of `change`, several times: each time `whole` must hold of what is
/// left, which is clean but for leaks.
pub(crate) async fn cut_at_every_step(
    storage: &SimulatedStorage,
    change: impl AsyncFnOnce(&SimulatedStorage),
    whole: impl AsyncFn(&SimulatedStorage, &str),
) {
    let mut recording = Recording::start(&[storage]);
    change(storage).await;
    for step in 0..=recording.steps() {
        for seed in 0..4 {
            let left = recording.power_cut(step, seed).remove(0);
            let cut = format!("cut after {step} steps, seed {seed}");
            recover(&left).await.unwrap();
            let report = verdict(&left).await;
            assert!(matches!(report.exit_status(), 0 | 3), "{cut}: {report:?}");
            whole(&left, &cut).await;
        }
    }
}
