//! What durable records say, and is not in its place yet.

use std::collections::BTreeMap;
use std::ops::Range;

const SECTOR_BYTES: u64 = 512;
/// At most this much is written at once.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// Content of durable records that waits for a checkpoint.
#[derive(Default)]
pub(super) struct Home {
    /// Whole sectors of metadata.
    metadata: Sectors,
    /// Whole sectors of the guest's data.
    data: Sectors,
    /// Parts of sectors, of which the rest is not the journal's to write.
    fields: BTreeMap<u64, Vec<u8>>,
}

/// By their numbers.
type Sectors = BTreeMap<u64, Box<[u8]>>;

/// What a checkpoint writes.
#[derive(Default)]
pub(crate) struct Batch {
    home: Home,
    /// The last record of which it has something.
    pub(super) upto: u64,
}

impl Home {
    pub(super) fn is_empty(&self) -> bool {
        self.metadata.is_empty() && self.data.is_empty() && self.fields.is_empty()
    }

    /// Adds whole sectors of metadata at `offset`, in place of what was to be written there.
    pub(super) fn add_metadata(&mut self, offset: u64, bytes: &[u8]) {
        add(&mut self.metadata, offset, bytes);
    }

    /// Adds whole sectors of data at `offset`, in place of what was to be written there.
    pub(super) fn add_data(&mut self, offset: u64, bytes: &[u8]) {
        add(&mut self.data, offset, bytes);
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
        for kind in [&mut self.metadata, &mut self.data] {
            let gone: Vec<_> = kind.range(sectors.clone()).map(|(n, _)| *n).collect();
            for sector in gone {
                kind.remove(&sector);
            }
        }
    }

    pub(super) fn take(&mut self, upto: u64) -> Batch {
        let home = std::mem::take(self);
        Batch { home, upto }
    }

    /// Takes back what could not be written, but for what has become newer.
    pub(super) fn put_back(&mut self, batch: Batch) {
        let newer = std::mem::replace(self, batch.home);
        self.metadata.extend(newer.metadata);
        self.data.extend(newer.data);
        self.fields.extend(newer.fields);
    }
}

impl Batch {
    /// What metadata to write where.
    pub(crate) fn metadata(&self) -> Vec<(u64, Vec<u8>)> {
        let mut writes = joined(&self.home.metadata);
        let fields = self.home.fields.iter();
        writes.extend(fields.map(|(offset, bytes)| (*offset, bytes.clone())));
        writes
    }

    /// What data to write where.
    pub(crate) fn data(&self) -> Vec<(u64, Vec<u8>)> {
        joined(&self.home.data)
    }
}

fn add(all: &mut Sectors, offset: u64, bytes: &[u8]) {
    let sectors = bytes.chunks(512).zip(offset / SECTOR_BYTES..);
    for (content, sector) in sectors {
        all.insert(sector, content.into());
    }
}

/// Runs of sectors, in order.
fn joined(sectors: &Sectors) -> Vec<(u64, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for (sector, bytes) in sectors {
        let offset = sector * SECTOR_BYTES;
        match runs.last_mut() {
            Some((start, run))
                if *start + run.len() as u64 == offset && run.len() < WRITE_BYTES_MAX =>
            {
                run.extend_from_slice(bytes);
            }
            _ => runs.push((offset, bytes.to_vec())),
        }
    }
    runs
}
