//! Does everything that one can do with an image, which may hold anything.

use disk::flat::{self, Flat, format};
use disk::qcow2::{self, Parts, Qcow2};
use disk::{
    Backend, Buffers, CheckReport, Disk, Error, Executor, Fault, FaultyOperation, Repair, Request,
    SimulatedStorage, Storage,
};

/// A journal as small as can be: the disk is memory, which is counted.
fn parts() -> Parts<SimulatedStorage> {
    Parts {
        journal_bytes: Some(1),
        ..Parts::default()
    }
}

/// More operations than any image of the size that is tried here needs. What follows fails, so that
/// what would never end does.
const OPERATIONS_MAX: u64 = 50_000;
/// More than what is written: refcounts may say that much of a file that is not there is in use.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// How many snapshots of an image are read.
const SNAPSHOTS: usize = 3;
/// How much of a disk is read and written at each place.
const PIECE_BYTES: u64 = 8192;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Opens, reads, and looks for holes, in the disk and in its snapshots.
    Read,
    /// Looks for faults.
    Check,
    /// Opens, writes, discards, flushes, takes a snapshot and closes.
    Write,
    /// Repairs.
    Repair,
}

/// Does it; whether that worked.
///
/// # Panics
/// When the engine does what it must not, whatever the image holds.
pub fn exercise(image: &[u8], aim: Aim) -> bool {
    let storage = SimulatedStorage::from_bytes(image, 1).named("image");
    let limit = |operation| {
        Fault::new(operation, 5)
            .after(OPERATIONS_MAX)
            .times(u64::MAX)
    };
    for operation in [
        FaultyOperation::Read,
        FaultyOperation::Write,
        FaultyOperation::Zero,
        FaultyOperation::Sync,
        FaultyOperation::SetLen,
    ] {
        storage.inject(limit(operation));
    }
    let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).expect("an executor");
    let image = Image {
        is_flat: image.starts_with(&format::MAGIC),
        storage,
    };
    let result = executor.run(async {
        match aim {
            Aim::Read => image.read().await,
            Aim::Check => image.check(Repair::None).await.map(drop),
            Aim::Write => image.write().await,
            Aim::Repair => image.repair().await,
        }
    });
    let counters = image.storage.counters();
    let most = counters
        .reads
        .max(counters.writes)
        .max(counters.syncs)
        .max(counters.others);
    assert!(most < OPERATIONS_MAX, "no end in sight: {counters:?}");
    if let Err(error) = &result {
        let message = error.to_string();
        assert!(
            message.starts_with("image: ") && message.lines().count() == 1,
            "{message:?}"
        );
    }
    result.is_ok()
}

/// The beginning, the middle and the end of a disk.
fn places(size_bytes: u64) -> [(u64, u64); 3] {
    let len = PIECE_BYTES.min(size_bytes);
    let middle = (size_bytes - len) / 1024 * 512;
    [(0, len), (middle, len), (size_bytes - len, len)]
}

/// An image of either format, as its first bytes say.
struct Image {
    is_flat: bool,
    storage: SimulatedStorage,
}

impl Image {
    async fn open(&self) -> Result<Box<dyn Disk>, Error> {
        let storage = self.storage.clone();
        if self.is_flat {
            let disk = Flat::open(storage, flat::Parts::default()).await?;
            return Ok(Box::new(disk));
        }
        Ok(Box::new(Qcow2::open(storage, parts()).await?))
    }

    async fn check(&self, repair: Repair) -> Result<CheckReport, Error> {
        if self.is_flat {
            return flat::check(&self.storage, repair).await;
        }
        qcow2::check(&self.storage, repair).await
    }

    async fn read(&self) -> Result<(), Error> {
        if self.is_flat {
            let disk = Flat::open(self.storage.clone(), flat::Parts::default()).await?;
            let result = read_places(&disk).await;
            self.read_flat_snapshots(&disk).await?;
            return result;
        }
        let disk = Qcow2::open(self.storage.clone(), parts()).await?;
        let result = read_places(&disk).await;
        self.read_snapshots(&disk).await?;
        result
    }

    async fn read_flat_snapshots(&self, disk: &Flat<SimulatedStorage>) -> Result<(), Error> {
        for snapshot in disk.snapshots().iter().take(SNAPSHOTS) {
            let parts = flat::Parts {
                snapshot: Some(snapshot.id.to_string()),
                ..flat::Parts::default()
            };
            let disk = Flat::open(self.storage.clone().read_only(), parts).await?;
            read_places(&disk).await?;
        }
        Ok(())
    }

    /// Takes a snapshot, goes back to the first, and deletes that, if the image is a compact flat one.
    async fn change_flat_snapshots(&self) -> Result<(), Error> {
        let disk = Flat::open(self.storage.clone(), flat::Parts::default()).await?;
        if disk.header().chunks.is_none() {
            return disk.close().await;
        }
        let new = flat::NewSnapshot {
            name: "new".to_owned(),
            ..flat::NewSnapshot::default()
        };
        let taken = disk.create_snapshot(new).await;
        let result = match disk.snapshots().first().map(|first| first.id.to_string()) {
            Some(first) => {
                let applied = disk.apply_snapshot(&first).await;
                let deleted = disk.delete_snapshot(&first).await;
                taken.and(applied).and(deleted)
            }
            None => taken,
        };
        result.and(disk.close().await)
    }

    async fn read_snapshots(&self, disk: &Qcow2<SimulatedStorage>) -> Result<(), Error> {
        let snapshots = disk.snapshots().await?;
        for snapshot in snapshots.iter().take(SNAPSHOTS) {
            let parts = Parts {
                snapshot: Some(snapshot.id.clone()),
                ..parts()
            };
            let disk = Qcow2::open(self.storage.clone().read_only(), parts).await?;
            read_places(&disk).await?;
        }
        Ok(())
    }

    async fn write(&self) -> Result<(), Error> {
        let before = self.storage.size_bytes();
        let disk = self.open().await?;
        let size_bytes = disk.properties().size_bytes;
        let mut result = Ok(());
        for (offset, len) in places(size_bytes) {
            let data = Buffers::from_vec(vec![7; usize::try_from(len).expect("small")]);
            let requests = [
                Request::write(offset, data.clone()),
                Request::discard(offset, len / 1024 * 512),
                Request::flush(),
                Request::write_zeroes(offset, len.min(512), true),
                Request::write(offset, data.slice(0..data.len().min(512))),
                Request::flush(),
            ];
            for request in requests {
                result = result.and(disk.submit(request).await);
            }
        }
        result = result.and(disk.close().await);
        if self.is_flat {
            result = result.and(self.change_flat_snapshots().await);
        }
        let after = self.storage.size_bytes();
        assert!(
            self.is_flat || after < before + GROWTH_BYTES_MAX,
            "grew from {before} to {after}"
        );
        result
    }

    async fn repair(&self) -> Result<(), Error> {
        let repaired = self.check(Repair::All).await?;
        if remaining(&repaired) == 0 {
            let again = self.check(Repair::None).await?;
            assert!(
                remaining(&again) == 0,
                "repaired: {repaired:?}\nfound again: {again:?}"
            );
            let again = self.check(Repair::All).await?;
            assert_eq!(
                (again.corruptions_fixed, again.leaks_fixed),
                (0, 0),
                "repaired again"
            );
        }
        Ok(())
    }
}

async fn read_places(disk: &dyn Disk) -> Result<(), Error> {
    let size_bytes = disk.properties().size_bytes;
    let mut result = Ok(());
    for (offset, len) in places(size_bytes) {
        let buffers = Buffers::zeroed(usize::try_from(len).expect("small"));
        result = result.and(disk.submit(Request::read(offset, buffers)).await);
        let mut at = offset;
        while at < offset + len {
            match disk.extent(at, offset + len - at).await {
                Ok(extent) => {
                    assert!(
                        extent.len > 0 && extent.len <= offset + len - at,
                        "{extent:?}"
                    );
                    at += extent.len;
                }
                Err(error) => {
                    result = result.and(Err(error));
                    break;
                }
            }
        }
    }
    result
}

fn remaining(report: &CheckReport) -> u64 {
    report.corruptions + report.leaks + report.check_errors
}
