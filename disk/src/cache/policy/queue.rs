//! Queues of slots: each slot is in one of them at most.

/// No slot.
const NONE: u32 = u32::MAX;

/// The neighbours of each slot, in whichever queue it is.
pub(super) struct Links(Vec<Link>);

#[derive(Clone, Copy)]
struct Link {
    newer: u32,
    older: u32,
}

/// A first-in first-out queue.
pub(super) struct Queue {
    newest: u32,
    oldest: u32,
    len: u32,
}

impl Links {
    pub(super) fn new(slots: u32) -> Self {
        let none = Link {
            newer: NONE,
            older: NONE,
        };
        Self(vec![none; slots as usize])
    }

    fn at(&mut self, slot: u32) -> &mut Link {
        &mut self.0[slot as usize]
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            newest: NONE,
            oldest: NONE,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn push(&mut self, links: &mut Links, slot: u32) {
        *links.at(slot) = Link {
            newer: NONE,
            older: self.newest,
        };
        if self.newest == NONE {
            self.oldest = slot;
        } else {
            links.at(self.newest).newer = slot;
        }
        self.newest = slot;
        self.len += 1;
    }

    pub(super) fn pop(&mut self, links: &mut Links) -> Option<u32> {
        let oldest = self.oldest;
        (oldest != NONE).then(|| {
            self.remove(links, oldest);
            oldest
        })
    }

    /// Takes out a slot that is in this queue.
    pub(super) fn remove(&mut self, links: &mut Links, slot: u32) {
        let Link { newer, older } = *links.at(slot);
        if newer == NONE {
            self.newest = older;
        } else {
            links.at(newer).older = older;
        }
        if older == NONE {
            self.oldest = newer;
        } else {
            links.at(older).newer = newer;
        }
        self.len -= 1;
    }
}
