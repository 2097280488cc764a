//! Having the block device made larger that a compact image is about to fill: one attempt at a time,
//! beside whatever else is done. Nothing needs to be remembered: the table says what is in use.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::image::Image;
use crate::flat::grow::Grow;
use crate::timer::sleep;
use crate::wait_queue::WaitQueue;
use crate::{Error, Storage, spawn};

/// So much should be free, or such a part of the device, if that is less.
const LOW_WATER_BYTES: u64 = 512 << 20;
const LOW_WATER_PART: u64 = 8;
/// How long to wait after an attempt from which nothing came, at first; twice as long each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// What makes the device larger, and how far that is.
pub(super) struct Growth<S> {
    hook: Option<Rc<dyn Grow>>,
    image: Weak<Image<S>>,
    /// Whether somebody sees to it that there is room.
    is_running: Cell<bool>,
    /// Whether an attempt has begun, and not ended.
    is_trying: Cell<bool>,
    /// Those who wait for the end of an attempt.
    waiting: WaitQueue,
}

impl<S> Growth<S> {
    pub(super) fn new(hook: Option<Rc<dyn Grow>>, image: Weak<Image<S>>) -> Self {
        Self {
            hook,
            image,
            is_running: Cell::default(),
            is_trying: Cell::default(),
            waiting: WaitQueue::default(),
        }
    }
}

impl<S: Storage> Image<S> {
    /// Has the device made larger, if little of it is free, and waits for nothing.
    pub(super) fn start_growth(&self) {
        let growth = &self.growth;
        let Some(hook) = growth.hook.clone() else {
            return;
        };
        if growth.is_running.get() || self.is_closing.is_set() || self.lacking_bytes() == 0 {
            return;
        }
        if let Some(image) = growth.image.upgrade() {
            growth.is_running.set(true);
            growth.is_trying.set(true);
            spawn(async move { image.keep_growing(&*hook).await });
        }
    }

    /// Waits until there may be more places. Returns false if there will be none.
    pub(super) async fn wait_for_growth(&self) -> Result<bool, Error> {
        let before = self.storage.size_bytes();
        self.storage.refresh_size()?;
        if self.storage.size_bytes() > before {
            return Ok(true);
        }
        self.start_growth();
        let growth = &self.growth;
        let is_trying = growth.is_trying.get() && !self.is_closing.is_set();
        if is_trying {
            self.is_closing.unless_set(growth.waiting.wait()).await;
        }
        Ok(is_trying)
    }

    /// How much less is free than should be. A disk whose chunks all have places needs nothing.
    fn lacking_bytes(&self) -> u64 {
        let (disk_bytes, size_bytes) = (self.size_bytes(), self.storage.size_bytes());
        self.table.borrow().as_ref().map_or(0, |table| {
            let chunk_bytes = table.chunk_bytes();
            let taken = table.places.taken();
            let free = table.places_within(size_bytes).saturating_sub(taken);
            let low_water = LOW_WATER_BYTES.min(size_bytes / LOW_WATER_PART);
            let chunks = disk_bytes.div_ceil(chunk_bytes);
            let unplaced = chunks.saturating_sub(table.places.of_chunks());
            let wanted = low_water.div_ceil(chunk_bytes).min(unplaced);
            wanted.saturating_sub(free) * chunk_bytes
        })
    }

    async fn keep_growing(&self, hook: &dyn Grow) {
        let growth = &self.growth;
        let (mut pause, mut is_told) = (PAUSE_MIN, false);
        while !self.is_closing.is_set() && self.lacking_bytes() > 0 {
            let Some(problem) = self.try_growing(hook).await else {
                (pause, is_told) = (PAUSE_MIN, false);
                continue;
            };
            if !is_told && !self.is_closing.is_set() {
                let path = self.storage.path().display();
                tracing::warn!("{path}: is nearly full, and was not made larger: {problem}");
                is_told = true;
            }
            self.is_closing.unless_set(sleep(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        growth.is_running.set(false);
        growth.is_trying.set(false);
        growth.waiting.wake_all();
    }

    /// One attempt. Returns what was wrong with it.
    async fn try_growing(&self, hook: &dyn Grow) -> Option<String> {
        let (growth, before) = (&self.growth, self.storage.size_bytes());
        growth.is_trying.set(true);
        let attempt = hook.grow(self.storage.path(), before, self.lacking_bytes());
        let outcome = self.is_closing.unless_set(attempt).await;
        let refreshed = self.storage.refresh_size();
        growth.is_trying.set(false);
        growth.waiting.wake_all();
        match (outcome, refreshed) {
            (Some(Err(problem)), _) => Some(problem),
            (_, Err(error)) => Some(error.to_string()),
            _ if self.storage.size_bytes() > before => None,
            _ => Some("it has the size that it had".to_owned()),
        }
    }
}
