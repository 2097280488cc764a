//! What durable records say, and is not in its place yet.

use std::collections::BTreeMap;
use std::ops::Range;

const SECTOR_BYTES: u64 = 512;
/// At most this much is written at once.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// Content of durable records that waits for a checkpoint.
#[derive(Default)]
pub(super) struct Home {
    /// Whole sectors, by their numbers.
    sectors: BTreeMap<u64, Box<[u8]>>,
    /// Parts of sectors, of which the rest is not the journal's to write.
    fields: BTreeMap<u64, Vec<u8>>,
}

/// What a checkpoint writes.
#[derive(Default)]
pub(crate) struct Batch {
    home: Home,
    /// The last record of which it has something.
    pub(super) upto: u64,
}

impl Home {
    pub(super) fn is_empty(&self) -> bool {
        self.sectors.is_empty() && self.fields.is_empty()
    }

    /// Adds whole sectors at `offset`, in place of what was to be written there.
    pub(super) fn add(&mut self, offset: u64, bytes: &[u8]) {
        let sectors = bytes.chunks(512).zip(offset / SECTOR_BYTES..);
        for (content, sector) in sectors {
            self.sectors.insert(sector, content.into());
        }
    }

    /// Adds a part of a sector that is not added otherwise.
    pub(super) fn add_field(&mut self, offset: u64, bytes: Vec<u8>) {
        self.fields.insert(offset, bytes);
    }

    /// What is in a range belongs to nobody any more.
    pub(super) fn forget(&mut self, range: &Range<u64>) {
        let sectors = range.start.div_ceil(SECTOR_BYTES)..range.end / SECTOR_BYTES;
        if sectors.is_empty() {
            return;
        }
        let gone: Vec<_> = self.sectors.range(sectors).map(|(n, _)| *n).collect();
        for sector in gone {
            self.sectors.remove(&sector);
        }
    }

    pub(super) fn take(&mut self, upto: u64) -> Batch {
        let home = std::mem::take(self);
        Batch { home, upto }
    }

    /// Takes back what could not be written, but for what has become newer.
    pub(super) fn put_back(&mut self, batch: Batch) {
        let Home {
            mut sectors,
            mut fields,
        } = batch.home;
        sectors.append(&mut self.sectors);
        fields.append(&mut self.fields);
        self.sectors = sectors;
        self.fields = fields;
    }
}

impl Batch {
    /// What to write where.
    pub(crate) fn writes(&self) -> Vec<(u64, Vec<u8>)> {
        let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
        for (sector, bytes) in &self.home.sectors {
            let offset = sector * SECTOR_BYTES;
            match writes.last_mut() {
                Some((start, run))
                    if *start + run.len() as u64 == offset && run.len() < WRITE_BYTES_MAX =>
                {
                    run.extend_from_slice(bytes);
                }
                _ => writes.push((offset, bytes.to_vec())),
            }
        }
        let fields = self.home.fields.iter();
        writes.extend(fields.map(|(offset, bytes)| (*offset, bytes.clone())));
        writes
    }
}
