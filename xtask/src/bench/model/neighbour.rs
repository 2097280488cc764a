//! A second virtual machine, which keeps its own file on the same device busy.

use std::cell::{Cell, RefCell};
use std::fmt;

use ::disk::{Buffers, Error, SimulatedDevice, SimulatedStorage, Storage as _};
use futures_util::future::{try_join, try_join_all};

use super::host::NEIGHBOUR_START;
use super::random::Random;

/// It reads one half of its file and writes the other.
const FILE_BYTES: u64 = 1 << 30;
/// What each writer writes between two syncs.
const SYNC_BYTES: u64 = 16 << 20;
/// As many readers and as many writers it has, with one request each, where the device has channels
/// for them: all of a SATA disk's.
const DEPTH_MAX: usize = 4;
const SEED: u64 = 2;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// There is none.
    Absent,
    /// 64 KiB at a time, one after the other.
    Sequential,
    /// 4 KiB anywhere.
    Random,
}

impl Neighbour {
    pub(super) const ALL: [Self; 3] = [Self::Absent, Self::Sequential, Self::Random];

    /// Works until `stop`.
    pub(super) async fn work(
        self,
        device: &SimulatedDevice,
        stop: &Cell<bool>,
    ) -> Result<(), Error> {
        let len = match self {
            Self::Absent => return Ok(()),
            Self::Sequential => 64 << 10,
            Self::Random => 4 << 10,
        };
        let file = SimulatedStorage::new(FILE_BYTES, SEED);
        file.put_on(device, NEIGHBOUR_START);
        let depth = (device.model().channels / 2).clamp(1, DEPTH_MAX);
        let (reads, writes) = (self.places(len), self.places(len));
        try_join(
            try_join_all((0..depth).map(|_| read(&file, len, &reads, stop))),
            try_join_all((0..depth).map(|_| write(&file, len, &writes, stop))),
        )
        .await?;
        Ok(())
    }

    /// Where readers or writers go, within half of the file.
    fn places(self, len: u32) -> Places {
        let len = u64::from(len);
        let count = FILE_BYTES / 2 / len;
        let mut random = Random::new(SEED);
        let places = (0..).map(move |n| {
            let n = if self == Self::Random {
                random.below(count)
            } else {
                n % count
            };
            n * len
        });
        RefCell::new(Box::new(places))
    }
}

/// Where requests of one kind go, without an end.
type Places = RefCell<Box<dyn Iterator<Item = u64>>>;

async fn read(
    file: &SimulatedStorage,
    len: u32,
    places: &Places,
    stop: &Cell<bool>,
) -> Result<(), Error> {
    while !stop.get() {
        let place = places.borrow_mut().next().unwrap_or(0);
        file.read_at(place, buffers(len)).await?;
    }
    Ok(())
}

async fn write(
    file: &SimulatedStorage,
    len: u32,
    places: &Places,
    stop: &Cell<bool>,
) -> Result<(), Error> {
    let mut unsynced_bytes = 0;
    while !stop.get() {
        let place = places.borrow_mut().next().unwrap_or(0);
        file.write_at(FILE_BYTES / 2 + place, buffers(len)).await?;
        unsynced_bytes += u64::from(len);
        if unsynced_bytes >= SYNC_BYTES {
            file.sync().await?;
            unsynced_bytes = 0;
        }
    }
    Ok(())
}

fn buffers(len: u32) -> Buffers {
    Buffers::zeroed(usize::try_from(len).unwrap_or(usize::MAX))
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Absent => "alone",
            Self::Sequential => "beside sequential",
            Self::Random => "beside random",
        })
    }
}
