//! Caches in front of simulated disks.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;

use crate::cache::format::Stamp;
use crate::cache::open::Behind;
use crate::cache::policy::PolicyKind;
use crate::cache::{CacheOptions, Cached, WriteMode};
use crate::rng::Rng;
use crate::test_support::content::{
    SECTOR_BYTES, Stamp as Sector, bytes_of, layer_stamp, stamp_of,
};
use crate::{Backend, Buffers, Disk, Error, Executor, Raw, Request, SimulatedStorage};

/// A disk and its cache. Not open.
#[derive(Clone)]
pub(super) struct Rig {
    pub(super) disk: SimulatedStorage,
    /// Absent: in memory.
    pub(super) file: Option<SimulatedStorage>,
    pub(super) options: CacheOptions,
    pub(super) size_sectors: u64,
    /// What somebody finds who looks at the disk's file.
    pub(super) stamp: Rc<Cell<Option<Stamp>>>,
    pub(super) path: PathBuf,
}

impl Rig {
    /// A disk of a few blocks, not all of them whole, and a cache that it fits into or not.
    pub(super) fn random(seed: u64, in_file: bool) -> Self {
        let rng = &mut Rng::new(seed);
        let size_sectors = 1 + rng.below(300);
        let kinds = [PolicyKind::S3Fifo, PolicyKind::Lru];
        let mode = [WriteMode::Through, WriteMode::Back, WriteMode::Back][rng.index(3)];
        let options = CacheOptions::of_slots(16 + rng.below(24))
            .write_mode(mode)
            .policy(kinds[rng.index(2)])
            .by_class(rng.coin());
        Self::new(seed, size_sectors, options, in_file)
    }

    pub(super) fn new(seed: u64, size_sectors: u64, options: CacheOptions, in_file: bool) -> Self {
        let stamps = initial(size_sectors);
        let disk = SimulatedStorage::from_bytes(&bytes_of(&stamps), seed);
        let file = SimulatedStorage::new(0, seed + 1).named("cache");
        let stamp = Stamp {
            inode: 7,
            size_bytes: size_sectors * 512,
            changed_ns: 1_000_000_000_000,
        };
        Self {
            disk: disk.named("disk"),
            file: in_file.then_some(file),
            options,
            size_sectors,
            stamp: Rc::new(Cell::new(Some(stamp))),
            path: "/some/disk".into(),
        }
    }

    /// The same, of which a power cut left this.
    pub(super) fn after_cut(&self, left: Vec<SimulatedStorage>) -> Self {
        let mut left = left.into_iter();
        Self {
            disk: left.next().expect("the disk").named("disk"),
            file: left.next().map(|file| file.named("cache")),
            ..self.clone()
        }
    }

    /// The storages, for a recording.
    pub(super) fn storages(&self) -> Vec<&SimulatedStorage> {
        [&self.disk].into_iter().chain(&self.file).collect()
    }

    pub(super) fn initial(&self) -> Vec<Sector> {
        initial(self.size_sectors)
    }

    pub(super) async fn open(&self) -> Result<Cached<SimulatedStorage>, Error> {
        let raw = Rc::new(Raw::new(self.disk.clone())?);
        self.open_on(raw).await
    }

    pub(super) async fn open_on(
        &self,
        disk: Rc<dyn Disk>,
    ) -> Result<Cached<SimulatedStorage>, Error> {
        let stamp = Rc::clone(&self.stamp);
        let behind = Behind {
            disk,
            path: self.path.clone(),
            look: Rc::new(move || stamp.get()),
            before: self.stamp.get(),
        };
        match &self.file {
            Some(file) => self.options.open_on(behind, file.clone()).await,
            None => Ok(self.options.open_in_memory(behind)),
        }
    }

    /// What is on the disk itself.
    pub(super) async fn on_disk(&self) -> Vec<Sector> {
        sectors_of(&Raw::new(self.disk.clone()).unwrap()).await
    }
}

fn initial(size_sectors: u64) -> Vec<Sector> {
    (0..size_sectors)
        .map(|sector| layer_stamp(0, sector))
        .collect()
}

/// What a disk has.
pub(super) async fn sectors_of(disk: &dyn Disk) -> Vec<Sector> {
    let len = usize::try_from(disk.properties().size_bytes).unwrap();
    let buffers = Buffers::zeroed(len);
    let read = Request::read(0, buffers.clone());
    disk.submit(read).await.unwrap();
    let bytes = buffers.to_vec();
    bytes
        .chunks(SECTOR_BYTES)
        .enumerate()
        .map(|(n, sector)| stamp_of(sector).unwrap_or_else(|_| panic!("sector {n} is torn")))
        .collect()
}

/// Runs `test` in a simulation.
pub(super) fn simulated<T>(seed: u64, test: impl AsyncFnOnce() -> T) -> T {
    let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
    executor.run(test())
}

pub(super) async fn write(disk: &dyn Disk, sector: u64, stamps: &[Sector]) {
    let data = Buffers::from_vec(bytes_of(stamps));
    let write = Request::write(sector * 512, data);
    disk.submit(write).await.unwrap();
}

pub(super) async fn read(disk: &dyn Disk, sector: u64) -> Result<Sector, Error> {
    let data = Buffers::zeroed(512);
    let request = Request::read(sector * 512, data.clone());
    disk.submit(request).await?;
    Ok(stamp_of(&data.to_vec()).unwrap())
}

pub(super) async fn flush(disk: &dyn Disk) {
    disk.submit(Request::flush()).await.unwrap();
}
