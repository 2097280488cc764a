//! Which images programs run on.

use std::collections::BTreeMap;
use std::iter;
use std::ops::Range;

use crate::Order;
use crate::qcow2::CreateOptions;
use crate::qcow2::format::Compression;
use crate::rng::Rng;
use crate::test_support::content::{Stamp, layer_stamp};

/// What an image is like.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    pub(super) options: CreateOptions,
    /// The backing chain, the nearest first.
    pub(super) layers: Vec<Layer>,
    /// The parts of the disk that programs use, in sectors.
    pub(super) windows: Vec<Range<u64>>,
    pub(super) l2_cache_bytes: Option<u64>,
    pub(super) order: Order,
    pub(super) journal_bytes: Option<u64>,
    /// Whether data that is alike is stored once, with so much memory for the index.
    pub(super) dedup_bytes: Option<u64>,
}

/// A backing file.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) qcow2: bool,
    pub(super) cluster_bits: u32,
    /// What each sector has; absent is a hole.
    pub(super) stamps: Vec<Option<Stamp>>,
}

impl Geometry {
    /// An image whose disk is small enough to be read as a whole, again and again.
    pub(super) fn small(rng: &mut Rng) -> Self {
        if rng.below(16) == 0 {
            return Self::with_sectors(14, true, 64 + rng.below(64), rng);
        }
        let cluster_bits = *pick(rng, &[9, 9, 9, 10, 12]);
        Self::with_sectors(cluster_bits, false, 32 + rng.below(160), rng)
    }

    /// Any image.
    pub(super) fn any(rng: &mut Rng) -> Self {
        if rng.below(8) == 0 {
            // Subclusters of 512 bytes or 1 KiB.
            let cluster_bits = *pick(rng, &[14, 15]);
            return Self::with_sectors(cluster_bits, true, 64 + rng.below(700), rng);
        }
        let cluster_bits = *pick(rng, &[9, 9, 9, 9, 10, 11, 12, 12, 13, 16]);
        let sectors = match rng.below(20) {
            0 => 1 + rng.below(40),
            1 => 4096 + rng.below(2048),
            2 if cluster_bits <= 12 => return Self::large(cluster_bits, rng),
            _ => 64 + rng.below(700),
        };
        Self::with_sectors(cluster_bits, false, sectors, rng)
    }

    /// A disk of many L2 tables, of which some are used.
    fn large(cluster_bits: u32, rng: &mut Rng) -> Self {
        let coverage = (((1 << cluster_bits) / 8) << cluster_bits) >> 9;
        let sectors: u64 = coverage * (2 + rng.below(200)) + rng.below(300);
        let mut geometry = Self::with_sectors(cluster_bits, false, sectors, rng);
        let boundary = coverage * (1 + rng.below(sectors / coverage - 1));
        geometry.windows = vec![
            0..32,
            boundary.saturating_sub(32).max(32)..boundary + 32,
            (sectors - 64).max(boundary + 32)..sectors + 64,
        ];
        geometry.windows.retain(|window| window.start < window.end);
        geometry
    }

    fn with_sectors(cluster_bits: u32, extended_l2: bool, sectors: u64, rng: &mut Rng) -> Self {
        let version = if extended_l2 || rng.below(5) > 0 {
            3
        } else {
            2
        };
        let data_file = (version == 3 && rng.below(10) == 0).then(|| rng.below(3) == 0);
        let new = version == 3;
        let mut options = CreateOptions::new(sectors * 512);
        options.version = version;
        options.cluster_bits = cluster_bits;
        options.extended_l2 = extended_l2;
        options.refcount_bits = if new { 1 << rng.below(7) } else { 16 };
        options.lazy_refcounts = new && rng.below(4) == 0;
        if new && data_file.is_none() && rng.coin() {
            options.compression = Compression::Zstd;
        }
        let chain = if data_file == Some(true) {
            0
        } else {
            rng.below(4).saturating_sub(1)
        };
        options.data_file = data_file.map(|raw| ("data".to_owned(), raw));
        let mut layers: Vec<_> = (0..chain).map(|n| Layer::random(n, sectors, rng)).collect();
        // Nothing shows through a raw image.
        if layers.first().is_some_and(|layer| !layer.qcow2) {
            layers.truncate(1);
        }
        options.backing = layers.first().map(|layer| layer.reference(0));
        Self {
            options,
            layers,
            windows: iter::once(0..sectors + sectors / 2).collect(),
            l2_cache_bytes: (rng.coin()).then(|| 4096 << rng.below(3)),
            order: *pick(
                rng,
                &[
                    Order::Journal,
                    Order::Journal,
                    Order::Journal,
                    Order::Ordered,
                    Order::Barrier,
                ],
            ),
            // The least there can be, so that programs fill it.
            journal_bytes: (rng.below(16) > 0).then_some(1),
            dedup_bytes: None,
        }
    }

    /// The same, with data that is alike stored once.
    pub(super) fn sharing(mut self, rng: &mut Rng) -> Self {
        if self.options.version < 3 {
            self.options.version = 3;
            self.options.refcount_bits = *pick(rng, &[2, 4, 16]);
        }
        self.options.data_file = None;
        self.order = Order::Journal;
        self.dedup_bytes = Some(*pick(rng, &[300, 2000, 1 << 20]));
        self
    }

    /// Whether metadata goes through a journal, so that power cuts leave no fault at all.
    pub(super) fn is_journaled(&self) -> bool {
        self.order == Order::Journal && self.options.version >= 3
    }

    pub(super) fn size_sectors(&self) -> u64 {
        self.options.size_bytes / 512
    }

    /// Whether some changes of the whole image are not possible. A cluster may get more references
    /// than can be counted: each snapshot has one, and so has each compressed cluster in it. And
    /// version 2 cannot change its size with snapshots, or where a backing file would show.
    pub(super) fn may_refuse(&self) -> bool {
        self.options.refcount_bits < 16 || self.options.version == 2
    }

    /// The disk's sectors that programs use, in order.
    pub(super) fn sectors(&self) -> impl Iterator<Item = u64> + '_ {
        self.windows.iter().cloned().flatten()
    }

    /// How many these are.
    pub(super) fn sector_count(&self) -> usize {
        self.sectors().count()
    }

    /// What a new image's disk has where programs use it.
    pub(super) fn initial(&self) -> Vec<Stamp> {
        let size = self.size_sectors();
        let of = |sector| {
            if sector < size {
                self.backing_stamp(sector)
            } else {
                0
            }
        };
        self.sectors().map(of).collect()
    }

    /// What the backing chain has, of which zeros may be left out.
    pub(super) fn backing_content(&self) -> BTreeMap<u64, Stamp> {
        let sectors = self.layers.first().map_or(0, |layer| layer.stamps.len());
        (0..sectors as u64)
            .map(|sector| (sector, self.backing_stamp(sector)))
            .collect()
    }

    fn backing_stamp(&self, sector: u64) -> Stamp {
        let index = usize::try_from(sector).expect("within memory");
        for layer in &self.layers {
            match layer.stamps.get(index) {
                None => return 0,
                Some(Some(stamp)) => return *stamp,
                Some(None) => {}
            }
        }
        0
    }
}

impl Layer {
    fn random(layer: u64, sectors: u64, rng: &mut Rng) -> Self {
        let sectors = match rng.below(3) {
            0 => sectors,
            1 => 1 + rng.below(sectors),
            _ => sectors + 1 + rng.below(200),
        };
        let mut stamps = Vec::new();
        let mut present = rng.coin();
        for sector in 0..sectors.min(20_000) {
            if rng.below(12) == 0 {
                present = rng.coin();
            }
            let layer = usize::try_from(layer).expect("small");
            stamps.push(present.then(|| layer_stamp(layer, sector)));
        }
        Self {
            qcow2: rng.coin(),
            cluster_bits: *pick(rng, &[9, 12, 16]),
            stamps,
        }
    }

    /// The name and the format by which the image on layer `number` knows it.
    pub(super) fn reference(&self, number: usize) -> (String, String) {
        let format = if self.qcow2 { "qcow2" } else { "raw" };
        (format!("layer {number}"), format.to_owned())
    }
}

pub(super) fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.index(from.len())]
}
