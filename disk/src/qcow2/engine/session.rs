//! The beginning and the end of writing to an image.

use super::image::Image;
use crate::journal::Journaled as _;
use crate::qcow2::bitmap::{self, Bitmaps};
use crate::qcow2::file;
use crate::qcow2::format::{AutoclearFeatures, Header};
use crate::{Error, Storage};

impl<S: Storage> Image<S> {
    /// Refuses a change if there can be none. Before the first, gives up what would not stay true,
    /// and makes the journal.
    pub(super) async fn prepare(&self, operation: &'static str) -> Result<(), Error> {
        self.check_writable(operation)?;
        if self.is_prepared.get() {
            return Ok(());
        }
        let _turn = self.tables.all().await;
        if self.is_prepared.get() {
            return Ok(());
        }
        // Whoever had the turn before may have failed: what it wrote must stay as it is.
        self.check_writable(operation)?;
        self.give_up_claims().await?;
        self.start_journal().await?;
        self.is_prepared.set(true);
        Ok(())
    }

    /// Gives up what the image says about its content and we do not keep true. Part
    /// `autoclear_features` of the specification.
    pub(super) async fn give_up_claims(&self) -> Result<(), Error> {
        let header = self.header.borrow().clone();
        let mut header = bitmap::mark_in_use(&self.storage, &header, Bitmaps::Enabled).await?;
        let known = AutoclearFeatures(header.autoclear.0 & AutoclearFeatures::KNOWN);
        if known != header.autoclear {
            let bytes = known.0.to_be_bytes().to_vec();
            file::write(&self.storage, Header::AUTOCLEAR_OFFSET, bytes).await?;
            header.autoclear = known;
        }
        if header != *self.header.borrow() || header.bitmaps.is_some() {
            self.flusher.changed();
            self.flusher.flush(&self.storage).await?;
            self.header.replace(header);
        }
        Ok(())
    }

    /// Whether the data file must read as the disk does.
    pub(super) fn is_data_file_raw(&self) -> bool {
        self.header.borrow().autoclear.0 & AutoclearFeatures::DATA_FILE_RAW != 0
    }

    /// Makes everything durable and lets go of the files. Requests whose senders have gone away
    /// may still be in flight: once the files are another's, nothing may be written.
    pub(super) async fn close(&self) -> Result<(), Error> {
        let _changes = self.changes.all().await;
        let _everything = self.guest.all().await;
        self.growth.stop();
        let settled = match self.check_writable("close") {
            Ok(()) => self.settle().await,
            Err(_) if self.storage.geometry().read_only => Ok(()),
            Err(error) => Err(error),
        };
        self.is_closed.set(true);
        self.storage.close();
        if let Some(data_file) = &self.data_file {
            data_file.close();
        }
        let closed = match &self.backing {
            Some(backing) => backing.close().await,
            None => Ok(()),
        };
        settled.and(closed)
    }
}
