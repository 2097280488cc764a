//! Random images on simulated disks.

use std::rc::Rc;

use crate::flat::format::BaseName;
use crate::flat::{
    Base, Copying, CreateOptions, Flat, Grow, Parts, Prefetch, check, create, find_zero_blocks,
    recover,
};
use crate::rng::Rng;
use crate::test_support::content::{SECTOR_BYTES, Stamp, bytes_of, layer_stamp, stamp_of};
use crate::test_support::history::History;
use crate::{
    Backend, Buffers, CheckReport, Disk, Error, Executor, Order, Raw, Repair, Request,
    SimulatedStorage,
};

/// The engine under test.
pub(super) type Image = Flat<SimulatedStorage>;

/// What a compact image is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compact {
    pub(super) chunk_bits: u32,
    /// How many places the block device has that it is on; absent if it is in a file.
    pub(super) places: Option<u64>,
    /// How many snapshots programs may have of it at a time.
    pub(super) snapshots_max: usize,
}

impl Compact {
    /// Chunks of a few blocks, in a file, or on a device that has just room for what programs make
    /// of a disk.
    fn random(size_sectors: u64, block_bits: u32, rng: &mut Rng) -> Option<Self> {
        let chunk_bits = block_bits + u32::try_from(rng.below(3)).expect("small");
        let sectors_max = size_sectors + size_sectors / 2 + 1;
        let places = (sectors_max * 512).div_ceil(1 << chunk_bits);
        let on_device = rng.coin();
        rng.coin().then_some(Self {
            chunk_bits,
            places: on_device.then_some(places),
            snapshots_max: 0,
        })
    }

    /// The same, with snapshots in half of the cases.
    fn with_snapshots(self, rng: &mut Rng) -> Self {
        let snapshots_max = if rng.coin() { 1 + rng.index(3) } else { 0 };
        // Each has two places of metadata, and so have the disk and what is to come; and two that
        // follow each other must be found among all that are taken.
        let room = |places: u64| 2 * (places + 2) * (snapshots_max as u64 + 2) + 8;
        Self {
            places: self.places.map(|places| {
                if snapshots_max > 0 {
                    room(places)
                } else {
                    places
                }
            }),
            snapshots_max,
            ..self
        }
    }
}

/// An image with all that belongs to it. Not open.
#[derive(Clone)]
pub(super) struct Rig {
    pub(super) image: SimulatedStorage,
    pub(super) base: Option<SimulatedStorage>,
    pub(super) order: Order,
    pub(super) size_sectors: u64,
    pub(super) block_bits: u32,
    pub(super) compact: Option<Compact>,
    pub(super) copying: Copying,
    pub(super) grow: Option<Rc<dyn Grow>>,
    /// What the base has.
    base_stamps: Rc<[Stamp]>,
}

impl Rig {
    /// An image of a few blocks on a base that is as large, smaller or larger, or on none.
    pub(super) async fn random(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let block_bits = 12 + u32::try_from(rng.below(3)).expect("small");
        let block_sectors = 1 << (block_bits - 9);
        let size_sectors = 1 + rng.below(30 * block_sectors);
        let base_stamps = match rng.below(6) {
            0 => Vec::new(),
            1 => stamps(size_sectors, rng),
            2 => stamps(1 + rng.below(size_sectors), rng),
            _ => stamps(size_sectors + rng.below(100), rng),
        };
        let orders = [
            Order::Journal,
            Order::Journal,
            Order::Ordered,
            Order::Barrier,
        ];
        let order = orders[rng.index(orders.len())];
        let scans = rng.below(3) == 0;
        let copying = Copying {
            on_read: rng.coin(),
            prefetch: (rng.below(4) == 0).then(Prefetch::default),
        };
        let compact = Compact::random(size_sectors, block_bits, rng);
        let compact = compact.map(|compact| compact.with_snapshots(rng));
        let rig = Self::blank(seed, size_sectors, block_bits, base_stamps, order);
        let rig = Self {
            compact,
            copying,
            ..rig
        };
        rig.created(seed, scans).await
    }

    /// An image on a base that has these stamps, whose zeros are found with `scans`.
    pub(super) async fn create(
        seed: u64,
        size_sectors: u64,
        block_bits: u32,
        base_stamps: Vec<Stamp>,
        order: Order,
        scans: bool,
    ) -> Self {
        let rig = Self::blank(seed, size_sectors, block_bits, base_stamps, order);
        rig.created(seed, scans).await
    }

    /// What belongs to an image that was not made yet.
    pub(super) fn blank(
        seed: u64,
        size_sectors: u64,
        block_bits: u32,
        base_stamps: Vec<Stamp>,
        order: Order,
    ) -> Self {
        let base = (!base_stamps.is_empty())
            .then(|| SimulatedStorage::from_bytes(&bytes_of(&base_stamps), seed).named("base"));
        Self {
            image: SimulatedStorage::new(0, seed).named("image"),
            base,
            order,
            size_sectors,
            block_bits,
            compact: None,
            copying: Copying::default(),
            grow: None,
            base_stamps: base_stamps.into(),
        }
    }

    /// Makes the image.
    pub(super) async fn created(self, seed: u64, scans: bool) -> Self {
        let (size_sectors, block_bits) = (self.size_sectors, self.block_bits);
        let mut rig = self;
        let mut options = CreateOptions::new(size_sectors * 512);
        options.block_bits = block_bits;
        // The least there can be, so that programs fill it.
        options.journal_bytes = Some(1);
        options.chunk_bits = rig.compact.map(|compact| compact.chunk_bits);
        rig.image = rig.storage(&options, seed);
        options.base = rig.base_reference();
        let zero_blocks = match rig.base_disk().filter(|_| scans) {
            Some(base) => {
                let (len, block_bytes) = (options.size_bytes, 1 << block_bits);
                let found = find_zero_blocks(base.as_ref(), len, block_bytes, true, |_| {});
                Some(found.await.unwrap())
            }
            None => None,
        };
        create(&rig.image, &options, zero_blocks.as_ref())
            .await
            .unwrap();
        rig
    }

    /// What the image is to be in: an empty file, or a block device that is full of what nobody may
    /// ever see.
    fn storage(&self, options: &CreateOptions, seed: u64) -> SimulatedStorage {
        let Some((chunk_bits, places)) = self
            .compact
            .and_then(|compact| Some((compact.chunk_bits, compact.places?)))
        else {
            return SimulatedStorage::new(0, seed).named("image");
        };
        let bytes = options.header().unwrap().data_offset + (places << chunk_bits);
        let garbage = vec![0xA5; usize::try_from(bytes).unwrap()];
        let device = SimulatedStorage::from_bytes(&garbage, seed);
        device.block_device().named("image")
    }

    pub(super) fn base_reference(&self) -> Option<Base> {
        self.base.as_ref().map(|_| Base {
            name: BaseName {
                name: "base".to_owned(),
                format: "raw".to_owned(),
                version: None,
            },
            size_bytes: self.base_stamps.len() as u64 * 512,
        })
    }

    fn base_disk(&self) -> Option<Rc<dyn Disk>> {
        let base = self.base.clone()?;
        Some(Rc::new(Raw::new(base.read_only()).unwrap()))
    }

    pub(super) async fn open(&self) -> Result<Image, Error> {
        let parts = Parts {
            base: self.base_disk(),
            order: Some(self.order),
            copying: self.copying.clone(),
            grow: self.grow.clone(),
            ..Parts::default()
        };
        Flat::open(self.image.clone(), parts).await
    }

    /// Opens a snapshot of it.
    pub(super) async fn open_snapshot(&self, id_or_name: &str) -> Result<Image, Error> {
        let parts = Parts {
            base: self.base_disk(),
            snapshot: Some(id_or_name.to_owned()),
            ..Parts::default()
        };
        Flat::open(self.image.clone().read_only(), parts).await
    }

    /// How many snapshots programs may have at a time.
    pub(super) fn snapshots_max(&self) -> usize {
        self.compact.map_or(0, |compact| compact.snapshots_max)
    }

    /// The same with what a power cut left of the image.
    pub(super) fn after_cut(&self, image: SimulatedStorage) -> Self {
        let on_device = self.compact.and_then(|compact| compact.places).is_some();
        Self {
            image: if on_device {
                image.block_device()
            } else {
                image
            },
            ..self.clone()
        }
    }

    /// Snapshots that were taken are in the closed image, and no others, and have what the disk had.
    pub(super) async fn look_at_snapshots(&self, history: &History) {
        let header = crate::flat::read_header(&self.image).await.unwrap();
        let found = crate::flat::snapshots(&self.image, &header).await.unwrap();
        let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
        for (name, known) in history.snapshots() {
            let is_there = names.contains(&name.as_str());
            assert!(!known.sure || is_there, "there is no snapshot {name:?}");
        }
        for name in names {
            let known = history.snapshots().get(name);
            let known = known.unwrap_or_else(|| panic!("there is a snapshot {name:?}"));
            let disk = self.open_snapshot(name).await.unwrap();
            assert_eq!(disk.properties().size_bytes, known.sectors * 512, "{name}");
            let found = sectors_of(&disk).await;
            let expected = &known.stamps[..found.len()];
            assert!(found == expected, "{name}: {found:x?}, not {expected:x?}");
            disk.close().await.unwrap();
        }
    }

    pub(super) async fn check(&self) -> CheckReport {
        check(&self.image, Repair::None).await.unwrap()
    }

    pub(super) async fn recover(&self) {
        recover(&self.image).await.unwrap();
    }

    /// The sectors that programs use: half as many again as the disk has at first.
    pub(super) fn sectors(&self) -> Vec<u64> {
        (0..=self.size_sectors + self.size_sectors / 2).collect()
    }

    /// What a new image has there.
    pub(super) fn initial(&self) -> Vec<Stamp> {
        let stamp = |sector: u64| {
            let index = usize::try_from(sector).expect("small");
            let here = self
                .base_stamps
                .get(index)
                .filter(|_| sector < self.size_sectors);
            here.copied().unwrap_or(0)
        };
        self.sectors().into_iter().map(stamp).collect()
    }
}

/// What all sectors of a disk have.
pub(super) async fn sectors_of(disk: &dyn Disk) -> Vec<Stamp> {
    let size_bytes = disk.properties().size_bytes;
    let content = Buffers::zeroed(usize::try_from(size_bytes).unwrap());
    let read = Request::read(0, content.clone());
    disk.submit(read).await.unwrap();
    let bytes = content.to_vec();
    let sectors = bytes.chunks(SECTOR_BYTES).enumerate();
    let stamp = |(sector, content): (usize, &[u8])| {
        stamp_of(content).unwrap_or_else(|byte| panic!("sector {sector} is torn at byte {byte}"))
    };
    sectors.map(stamp).collect()
}

/// Some sectors of a base are zeros.
fn stamps(sectors: u64, rng: &mut Rng) -> Vec<Stamp> {
    let mut zero = rng.coin();
    let stamp = |sector| {
        if rng.below(20) == 0 {
            zero = !zero;
        }
        if zero { 0 } else { layer_stamp(0, sector) }
    };
    (0..sectors).map(stamp).collect()
}

/// Runs something on a simulated executor.
pub(super) fn simulated<T>(seed: u64, work: impl AsyncFnOnce() -> T) -> T {
    let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
    executor.run(work())
}
