//! Changing what an image is for its user: its size, what it stands on, whether it holds anything.

use std::rc::Rc;

use super::Flat;
use super::image::Image;
use crate::executor::uninterrupted;
use crate::flat::bitmap::Bitmap;
use crate::flat::create::Base;
use crate::flat::format::{Header, SIZE_BYTES_MAX, names_fit};
use crate::flat::snapshots::Snapshots;
use crate::flat::table::Table;
use crate::journal::Journaled as _;
use crate::mutant::mutant;
use crate::request::SECTOR_BYTES;
use crate::{Error, Storage};

impl<S: Storage> Flat<S> {
    /// Makes the disk `size_bytes` long, rounded up to whole sectors. What is added reads as zeros,
    /// whatever the base holds there; what is cut off is lost.
    pub async fn resize(&self, size_bytes: u64) -> Result<(), Error> {
        self.change(async move |image| image.resize(size_bytes).await)
            .await
    }

    /// Makes `base` what the image says it stands on. This looks at no content; what the new one
    /// has beyond what came from the old one stays hidden. The disk goes on with what it was opened
    /// with. Without any, everything must be local, or reads as zeros from then on.
    pub async fn set_base(&self, base: Option<Base>) -> Result<(), Error> {
        self.change(async move |image| image.set_base(base).await)
            .await
    }

    /// Takes everything out of the image, so that it reads as its base does. One that stands alone
    /// is refused.
    pub async fn empty(&self) -> Result<(), Error> {
        self.change(async move |image| image.empty().await).await
    }

    /// Has the image changed by `change`, while nobody uses it and all of it is in its place.
    pub(super) async fn change<F>(&self, change: F) -> Result<(), Error>
    where
        F: AsyncFnOnce(&Image<S>) -> Result<(), Error> + 'static,
    {
        let image = Rc::clone(&self.image);
        uninterrupted(async move {
            let _changes = image.changes.all().await;
            let _everything = image.blocks.all().await;
            image.check_writable("change the image")?;
            image.settle().await?;
            image.is_prepared.set(false);
            change(&image).await
        })
        .await
    }
}

impl<S: Storage> Image<S> {
    pub(super) fn unsupported(&self, problem: &str) -> Error {
        Error::Unsupported {
            path: self.storage.path().to_owned(),
            problem: problem.to_owned(),
        }
    }

    /// Refuses what would change the base that snapshots stand on as well.
    fn refuse_with_snapshots(&self) -> Result<(), Error> {
        if self.has_snapshots() {
            return Err(self.unsupported(
                "has snapshots, which stand on its base as well; delete them first \
                 (microvm image snapshot -d)",
            ));
        }
        Ok(())
    }

    async fn resize(&self, size_bytes: u64) -> Result<(), Error> {
        let size_bytes = size_bytes
            .checked_next_multiple_of(SECTOR_BYTES)
            .filter(|size| (1..=SIZE_BYTES_MAX).contains(size))
            .ok_or_else(|| self.unsupported("a disk has 512 bytes to 4 EiB"))?;
        let old = self.header.borrow().clone();
        let mut new = Header {
            size_bytes,
            covered_bytes: old.covered_bytes.min(size_bytes),
            ..old.clone()
        };
        match &old.chunks {
            _ if size_bytes <= old.size_bytes => {}
            Some(_) => self.make_room(&mut new).await?,
            None => self.grow_file(old.data_end(), new.file_end()).await?,
        }
        let lost = self.places_behind(size_bytes);
        self.change_header(|header| *header = new).await?;
        self.reload().await?;
        if size_bytes < old.size_bytes {
            self.give_back_places(&lost).await;
            self.free_unused_end();
            self.commit_all().await?;
            self.cut_off().await;
        }
        Ok(())
    }

    /// Makes zeros of what lies between two ends, and the file so long.
    async fn grow_file(&self, old_end: u64, new_end: u64) -> Result<(), Error> {
        let stale_end = self.storage.size_bytes().min(new_end);
        if old_end < stale_end && !mutant("a flat disk grows over old data") {
            self.make_zeros(old_end, stale_end - old_end, true).await?;
        }
        if self.storage.size_bytes() < new_end {
            let grown = self.storage.set_len(new_end).await;
            self.flusher.changed();
            grown?;
        }
        Ok(())
    }

    async fn set_base(&self, base: Option<Base>) -> Result<(), Error> {
        self.refuse_with_snapshots()?;
        let base_bytes = base.as_ref().map_or(0, |base| base.size_bytes);
        if base.is_some() && self.header.borrow().base.is_none() {
            return Err(self.unsupported("stands alone: nothing of it comes from a base"));
        }
        if base.as_ref().is_some_and(|base| !names_fit(&base.name)) {
            return Err(self.unsupported("the name of its base is too long"));
        }
        self.zero_uncovered(base_bytes).await?;
        self.change_header(|header| {
            header.base_bytes = base_bytes;
            header.covered_bytes = header.covered_bytes.min(base_bytes);
            header.base = base.map(|base| base.name);
        })
        .await?;
        self.reload().await
    }

    /// Makes zeros of what lies in the place of blocks that a base of `base_bytes` does not cover,
    /// and which are not local: that is what the disk has there from then on. In a compact image,
    /// such blocks are zeros wherever they are.
    async fn zero_uncovered(&self, base_bytes: u64) -> Result<(), Error> {
        let header = self.header.borrow().clone();
        if header.chunks.is_some() {
            return Ok(());
        }
        let block_end = |bytes: u64| bytes.next_multiple_of(header.block_bytes());
        let mut at = block_end(base_bytes.min(header.covered_bytes));
        let end = block_end(header.covered_bytes).min(header.size_bytes);
        while at < end && !mutant("what no base covers is left as it is") {
            let (local, end) = self.run(&(at..end));
            if !local {
                let host = header.data_offset + at;
                self.make_zeros(host, end - at, true).await?;
            }
            at = end;
        }
        Ok(())
    }

    /// The bits go first: until they are gone, the image reads as it did.
    async fn empty(&self) -> Result<(), Error> {
        let header = self.header.borrow().clone();
        self.refuse_with_snapshots()?;
        if header.base.is_none() {
            return Err(self.unsupported("stands alone: there is no base that it could read as"));
        }
        let new = Header {
            covered_bytes: header.size_bytes.min(header.base_bytes),
            ..header.clone()
        };
        let blocks = new.bitmap_blocks();
        if blocks.div_ceil(8) > header.bitmap.end - header.bitmap.start {
            return Err(self.unsupported("its bitmap has no room for so large a base"));
        }
        // Whatever fails from here on, the base has it all.
        self.bitmap.replace(Bitmap::new(&header));
        let bytes = blocks.div_ceil(8).next_multiple_of(SECTOR_BYTES);
        if bytes > 0 {
            self.make_zeros(header.bitmap.start, bytes, true).await?;
        }
        self.flusher.flush(&self.storage).await?;
        let covered_bytes = new.covered_bytes;
        self.change_header(|header| header.covered_bytes = covered_bytes)
            .await?;
        if header.chunks.is_some() {
            self.reload().await?;
            self.free_all();
            self.commit_all().await?;
            self.cut_off().await;
            return Ok(());
        }
        let data_bytes = header.file_end() - header.data_offset;
        self.make_zeros(header.data_offset, data_bytes, true)
            .await?;
        self.flusher.flush(&self.storage).await?;
        self.reload().await
    }

    /// Reads again what the file has of the bitmap and the table.
    async fn reload(&self) -> Result<(), Error> {
        let header = self.header.borrow().clone();
        let snapshots = Snapshots::read(&self.storage, &header).await?;
        let bitmap = Bitmap::read(&self.storage, &header).await?;
        let table = Table::read(&self.storage, &header, &snapshots).await?;
        self.snapshots.replace(Rc::clone(&snapshots.list));
        self.bitmap.replace(bitmap);
        self.table.replace(table);
        Ok(())
    }
}
