//! The cache file fails, or the disk does.

use super::program::Run;
use super::rig::{Rig, flush, read, simulated, write};
use crate::cache::{CacheOptions, WriteMode};
use crate::rng::Rng;
use crate::storage::{Fault, FaultyOperation};
use crate::test_support::seeded;
use crate::{Backend, Disk, Error, Executor, Request};

fn rig(mode: WriteMode) -> Rig {
    let options = CacheOptions::of_slots(32).write_mode(mode);
    Rig::new(1, 512, options, true)
}

fn always(operation: FaultyOperation) -> Fault {
    Fault::new(operation, libc::EIO).times(u64::MAX)
}

/// The slots in the file.
fn slots(rig: &Rig) -> std::ops::Range<u64> {
    let file = rig.file.as_ref().unwrap();
    8192..crate::Storage::size_bytes(file)
}

#[test]
fn clean_blocks_that_cannot_be_read_are_read_from_the_disk() {
    simulated(1, async || {
        let rig = rig(WriteMode::Through);
        let disk = rig.open().await.unwrap();
        let file = rig.file.clone().unwrap();
        write(&disk, 0, &[2; 8]).await;
        crate::timer::sleep(std::time::Duration::from_millis(10))
            .await
            .unwrap();
        // Once it says so, and once nobody does.
        file.make_unreadable(slots(&rig));
        assert_eq!(read(&disk, 3).await.unwrap(), 2);
        crate::timer::sleep(std::time::Duration::from_millis(10))
            .await
            .unwrap();
        file.rot(slots(&rig), 2000);
        assert_eq!(read(&disk, 3).await.unwrap(), 2);
        disk.close().await.unwrap();
    });
}

#[test]
fn dirty_blocks_that_cannot_be_read_are_errors() {
    simulated(1, async || {
        let rig = rig(WriteMode::Back);
        let disk = rig.open().await.unwrap();
        let file = rig.file.clone().unwrap();
        write(&disk, 0, &[2; 8]).await;
        flush(&disk).await;
        file.rot(slots(&rig), 2000);
        let lost = read(&disk, 3).await;
        assert!(matches!(lost, Err(Error::Damaged { .. })), "{lost:?}");
        // Another write of all of it needs none of the old bytes.
        write(&disk, 0, &[4; 8]).await;
        assert_eq!(read(&disk, 3).await.unwrap(), 4);
        disk.close().await.unwrap();
        assert_eq!(rig.on_disk().await[..8], [4; 8]);
    });
}

#[test]
fn a_full_cache_device_takes_nothing() {
    simulated(1, async || {
        let rig = rig(WriteMode::Back);
        let disk = rig.open().await.unwrap();
        let file = rig.file.clone().unwrap();
        file.set_capacity_bytes(file.allocated_bytes());
        write(&disk, 0, &[2; 8]).await;
        assert_eq!(rig.on_disk().await[0], 2);
        flush(&disk).await;
        assert_eq!(read(&disk, 0).await.unwrap(), 2);
        disk.close().await.unwrap();
    });
}

#[test]
fn a_failed_sync_of_the_cache_file_is_never_forgotten() {
    simulated(1, async || {
        let rig = rig(WriteMode::Back);
        let disk = rig.open().await.unwrap();
        let file = rig.file.clone().unwrap();
        write(&disk, 0, &[2; 8]).await;
        file.inject(Fault::new(FaultyOperation::Sync, libc::EIO));
        assert!(disk.submit(Request::flush()).await.is_err());
        assert!(disk.submit(Request::flush()).await.is_err());
        // What it held is new, or an error.
        if let Ok(found) = read(&disk, 0).await {
            assert_eq!(found, 2);
        }
        assert!(disk.close().await.is_err());
    });
}

/// It is tried again, and nothing is lost meanwhile.
#[test]
fn a_disk_that_takes_nothing_leaves_blocks_dirty() {
    simulated(1, async || {
        let rig = rig(WriteMode::Back);
        let disk = rig.open().await.unwrap();
        rig.disk.inject(always(FaultyOperation::Write));
        write(&disk, 0, &[2; 8]).await;
        flush(&disk).await;
        crate::timer::sleep(std::time::Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(read(&disk, 0).await.unwrap(), 2);
        assert!(disk.close().await.is_err());
        rig.disk.heal();
        let disk = rig.open().await.unwrap();
        assert_eq!(read(&disk, 0).await.unwrap(), 2);
        disk.close().await.unwrap();
        assert_eq!(rig.on_disk().await[0], 2);
    });
}

/// Requests fail or not; what is read is never old.
#[test]
fn programs_with_errors_find_nothing_old() {
    seeded(150, |seed| {
        let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
        executor.run(async {
            let rig = Rig::random(seed, seed % 4 > 0);
            let run = Run::start(&rig, || 0).await;
            let mut rng = Rng::new(seed);
            run.witness.tolerate_errors(true);
            let operations = [FaultyOperation::Write, FaultyOperation::Read];
            for _ in 0..6 {
                let storages = rig.storages();
                let fault = Fault::new(operations[rng.index(2)], libc::EIO);
                let fault = fault.after(rng.below(40)).times(1 + rng.below(3));
                storages[rng.index(storages.len())].inject(fault);
                run.steps(&mut rng, 4).await;
            }
            for storage in rig.storages() {
                storage.heal();
            }
            run.witness.tolerate_errors(false);
            run.finish().await;
        });
    });
}
