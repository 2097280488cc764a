//! What is done when nobody wants anything for a while: the journal is emptied, so that recovery
//! would have nothing to do, and what the file has grown ahead goes back to the host.

use std::rc::{Rc, Weak};
use std::time::Duration;

use super::image::Image;
use super::reclaim::Reclaim;
use crate::timer::sleep;
use crate::{Error, Storage, spawn};

/// After so long without a change, an image is idle.
const IDLE: Duration = Duration::from_secs(2);

impl<S: Storage> Image<S> {
    /// Looks from time to time whether the image is idle, until its journal ends.
    pub(super) fn watch_idleness(self: &Rc<Self>) {
        let image = Rc::downgrade(self);
        spawn(async move {
            if let Err(error) = watch(image).await {
                tracing::warn!(%error, "an idle image is not tidied up any more");
            }
        });
    }

    /// Brings everything home, and gives back what is ahead.
    async fn tidy(self: &Rc<Self>) -> Result<(), Error> {
        let _change = self.changes.shared(0, 0).await;
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        self.check_writable("tidy up")?;
        self.commit_all().await?;
        self.reclaim(Reclaim::All).await?;
        if !journal.is_at_rest() {
            self.checkpoint(&journal).await?;
            self.make_durable().await?;
            self.commit_mark().await?;
        }
        self.shrink().await;
        Ok(())
    }
}

async fn watch<S: Storage>(image: Weak<Image<S>>) -> Result<(), Error> {
    // What was done when it was last tidied up.
    let (mut seen, mut tidied) = (0, 0);
    loop {
        sleep(IDLE).await?;
        let Some(image) = image.upgrade() else {
            return Ok(());
        };
        if image.journal().is_none() {
            image.is_watched.set(false);
            return Ok(());
        }
        let changes = image.flusher.mark();
        if changes == seen && changes != tidied {
            let done = image.tidy().await;
            image.is_watched.set(done.is_ok());
            done?;
            tidied = image.flusher.mark();
            seen = tidied;
        } else {
            seen = changes;
        }
    }
}
