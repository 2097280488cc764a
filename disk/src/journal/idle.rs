//! What is done when nobody wants anything for a while: the journal is emptied, so that recovery
//! would have nothing to do.

use std::ptr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::{Journal, Journaled};
use crate::timer::sleep;
use crate::{Error, spawn};

/// After so long without a change, an image is idle.
const IDLE: Duration = Duration::from_secs(2);

/// Looks from time to time whether an image is idle, while it has the journal that it has now, and
/// has it tidied up then.
pub(crate) fn watch_idleness<I: Journaled + 'static>(image: &Rc<I>) {
    let Some(journal) = image.journal() else {
        return;
    };
    if journal.is_watched.replace(true) {
        return;
    }
    let image = Rc::downgrade(image);
    spawn(async move {
        if let Err(error) = watch(image, &journal).await {
            tracing::warn!(%error, "an idle image is not tidied up any more");
            journal.is_watched.set(false);
        }
    });
}

async fn watch<I: Journaled>(image: Weak<I>, journal: &Journal) -> Result<(), Error> {
    // What was done when it was last tidied up.
    let (mut seen, mut tidied) = (0, 0);
    loop {
        sleep(IDLE).await?;
        let Some(image) = image.upgrade() else {
            return Ok(());
        };
        if !image
            .journal()
            .is_some_and(|current| ptr::eq(&raw const *current, journal))
        {
            return Ok(());
        }
        let changes = image.flusher().mark();
        if changes == seen && changes != tidied {
            image.tidy().await?;
            tidied = image.flusher().mark();
            seen = tidied;
        } else {
            seen = changes;
        }
    }
}
