//! A device that several simulated storages lie on.

use std::cell::RefCell;
use std::cmp::max;
use std::rc::Rc;

use super::latency::LatencyModel;

/// A device in virtual time. Storages on it share its channels, and its heads go to and fro between
/// them: see [`SimulatedStorage::put_on`](super::SimulatedStorage::put_on). Clones are the same
/// device.
#[derive(Clone)]
pub struct SimulatedDevice {
    model: LatencyModel,
    /// Absent: as large as the one storage on it is at the time.
    size_bytes: Option<u64>,
    state: Rc<RefCell<State>>,
}

struct State {
    /// When each channel is free again.
    channels: Vec<u64>,
    /// Where the last operation ended.
    position: u64,
}

impl SimulatedDevice {
    /// An idle device. Its size says how far apart the ends are.
    pub fn new(model: LatencyModel, size_bytes: u64) -> Self {
        Self {
            size_bytes: Some(size_bytes),
            ..Self::of_one(model)
        }
    }

    /// How fast it is.
    pub fn model(&self) -> LatencyModel {
        self.model
    }

    /// The device of one storage, which fills it.
    pub(super) fn of_one(model: LatencyModel) -> Self {
        let state = State {
            channels: vec![0; model.channels.max(1)],
            position: 0,
        };
        Self {
            model,
            size_bytes: None,
            state: Rc::new(RefCell::new(state)),
        }
    }

    /// Takes work that comes at `now_ns`, and says how long until it is done.
    pub(super) fn queue(&self, service_ns: u64, now_ns: u64) -> u64 {
        let channels = &mut self.state.borrow_mut().channels;
        let free = channels.iter_mut().min_by_key(|free_ns| **free_ns);
        let free_ns = free.expect("at least one channel");
        *free_ns = max(*free_ns, now_ns) + service_ns;
        *free_ns - now_ns
    }

    /// Moves the heads to `offset`, and over `len` bytes from there, and says how long the way
    /// takes. The storage that asks has `storage_bytes`.
    pub(super) fn seek_ns(&self, offset: u64, len: u64, storage_bytes: u64) -> u64 {
        let size_bytes = self.size_bytes.unwrap_or(storage_bytes);
        let position = &mut self.state.borrow_mut().position;
        let distance = position.abs_diff(offset).min(size_bytes);
        *position = offset.saturating_add(len);
        // Of the share in millionths, the root is in thousandths.
        let millionths = u128::from(distance) * 1_000_000 / u128::from(size_bytes.max(1));
        self.model.seek_ns / 1000 * u64::try_from(millionths.isqrt()).expect("at most 1000")
    }
}
