//! The host below an image: a device, and ext4 with a journal on it, as far as that costs.
//!
//! ```text
//!   device: │ the host's journal │ the image's file │ the file of the other machine │
//! ```

pub(super) mod clusters;
mod file;

use std::fmt;

use ::disk::{LatencyModel, SimulatedDevice};

pub(super) use file::HostFile;

/// The model takes the square root of a way's share in the device. So the device is smaller than
/// those that are sold, for a short way to cost what it does with the wait for the turn of a disk:
/// 4 ms on average within a file of 1 GiB.
const DEVICE_BYTES: u64 = 16 << 30;
/// Where the host's journal is.
const JOURNAL_START: u64 = 0;
/// Where the image's file begins.
const FILE_START: u64 = 1 << 30;
/// Where the file of the other machine begins: from there to the image, half the device.
pub(super) const NEIGHBOUR_START: u64 = 9 << 30;

/// What files lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    Sata,
    Hdd,
    Nvme,
}

impl Device {
    pub(super) const ALL: [Self; 3] = [Self::Sata, Self::Hdd, Self::Nvme];

    pub(super) fn model(self) -> SimulatedDevice {
        let model = match self {
            Self::Sata => LatencyModel::sata_ssd(),
            Self::Hdd => LatencyModel::hdd(),
            Self::Nvme => LatencyModel::nvme(),
        };
        SimulatedDevice::new(model, DEVICE_BYTES)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sata => "SATA SSD",
            Self::Hdd => "HDD",
            Self::Nvme => "NVMe",
        })
    }
}
