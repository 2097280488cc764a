//! Doorbells that signal a queue's event without an exit.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::{Doorbell, Platform};

/// The doorbells of one device that are attached to the machine.
pub(super) struct Doorbells {
    platform: Arc<dyn Platform>,
    attached: Vec<(Doorbell, Arc<EventFd>)>,
    warned: bool,
}

impl Doorbells {
    pub(super) fn new(platform: Arc<dyn Platform>) -> Self {
        Self {
            platform,
            attached: Vec::new(),
            warned: false,
        }
    }

    /// Attaches a doorbell. Where the machine cannot, writes arrive as exits, which is only slower.
    pub(super) fn attach(&mut self, doorbell: Doorbell, event: &Arc<EventFd>) {
        match self.platform.attach_doorbell(doorbell, event) {
            Ok(()) => self.attached.push((doorbell, Arc::clone(event))),
            // Said once, because a guest can have them attached as often as it likes.
            Err(error) if !self.warned => {
                self.warned = true;
                tracing::warn!(address = doorbell.address, %error, "a doorbell costs exits");
            }
            Err(_) => {}
        }
    }

    pub(super) fn detach_all(&mut self) {
        for (doorbell, event) in self.attached.drain(..) {
            if let Err(error) = self.platform.detach_doorbell(doorbell, &event) {
                tracing::warn!(address = doorbell.address, %error, "cannot detach a doorbell");
            }
        }
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        self.detach_all();
    }
}
