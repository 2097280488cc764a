//! Changes that QEMU and we can both make to an image.

use std::fmt::Write as _;
use std::ops::Range;

use disk::{Buffers, Request};

const SECTOR: u64 = 512;

/// A change of some sectors.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write {
        range: Range<u64>,
        byte: u8,
    },
    /// By QEMU only: whole clusters.
    Compressed {
        range: Range<u64>,
        byte: u8,
    },
    Zero {
        range: Range<u64>,
        unmap: bool,
    },
}

/// Draws changes of a disk.
pub(crate) struct Changes {
    state: u64,
    size_bytes: u64,
    cluster_bytes: u64,
}

impl Changes {
    pub(crate) fn new(size_bytes: u64, cluster_bytes: u64) -> Self {
        Self {
            state: 7,
            size_bytes,
            cluster_bytes,
        }
    }

    /// `SplitMix64`.
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn range(&mut self, unit: u64) -> Range<u64> {
        let units = self.size_bytes / unit;
        let first = self.below(units);
        let most = (300_000 / unit).clamp(1, units - first);
        first * unit..(first + 1 + self.below(most)) * unit
    }

    /// Some changes.
    pub(crate) fn draw(&mut self, count: usize) -> Vec<Change> {
        (0..count).map(|_| self.one()).collect()
    }

    fn one(&mut self) -> Change {
        let unit = if self.below(2) == 0 {
            SECTOR
        } else {
            self.cluster_bytes.min(self.size_bytes)
        };
        let range = self.range(unit);
        let [byte, ..] = (1 + self.below(255)).to_le_bytes();
        match self.below(8) {
            0 => Change::Zero {
                range,
                unmap: false,
            },
            1 => Change::Zero { range, unmap: true },
            _ => Change::Write { range, byte },
        }
    }

    /// Compressed clusters, none of them twice: QEMU does not compress what is there already.
    pub(crate) fn draw_compressed(&mut self, count: usize) -> Vec<Change> {
        let clusters = self.size_bytes / self.cluster_bytes;
        let step = (clusters / count as u64).max(1);
        (0..clusters)
            .step_by(usize::try_from(step).unwrap())
            .map(|cluster| {
                let [byte, ..] = (1 + self.below(255)).to_le_bytes();
                let start = cluster * self.cluster_bytes;
                let range = start..start + self.cluster_bytes;
                Change::Compressed { range, byte }
            })
            .collect()
    }
}

impl Change {
    fn range(&self) -> &Range<u64> {
        match self {
            Self::Write { range, .. }
            | Self::Compressed { range, .. }
            | Self::Zero { range, .. } => range,
        }
    }

    /// As a command of qemu-io.
    pub(crate) fn qemu_io(&self) -> String {
        let mut command = "write".to_owned();
        match self {
            Self::Write { byte, .. } => write!(command, " -P {byte}"),
            Self::Compressed { byte, .. } => write!(command, " -c -P {byte}"),
            Self::Zero { unmap: true, .. } => write!(command, " -z -u"),
            Self::Zero { .. } => write!(command, " -z"),
        }
        .unwrap();
        let Range { start, end } = self.range();
        command + &format!(" {start} {}", end - start)
    }

    /// As a request to a disk.
    pub(crate) fn request(&self) -> Request {
        let Range { start, end } = *self.range();
        match self {
            Self::Write { byte, .. } | Self::Compressed { byte, .. } => {
                let buffers = Buffers::zeroed(usize::try_from(end - start).unwrap());
                buffers.fill(*byte);
                Request::write(start, buffers)
            }
            Self::Zero { unmap, .. } => Request::write_zeroes(start, end - start, *unmap),
        }
    }

    /// What it makes of a disk's content.
    pub(crate) fn apply(&self, content: &mut [u8]) {
        let Range { start, end } = *self.range();
        let byte = match self {
            Self::Write { byte, .. } | Self::Compressed { byte, .. } => *byte,
            Self::Zero { .. } => 0,
        };
        content[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].fill(byte);
    }
}
