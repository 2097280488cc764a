//! Changing what an image is for its user: its size, what it stands on, whether it holds anything.

use std::rc::Rc;

use super::Qcow2;
use super::image::Image;
use crate::executor::uninterrupted;
use crate::mutant::mutant;
use crate::qcow2::{empty, rebase, resize};
use crate::{Buffers, Error, Storage};

impl<S: Storage> Qcow2<S> {
    /// Makes the disk `size_bytes` long, rounded up to whole sectors. What is added reads as zeros,
    /// whatever the backing file holds there; what is cut off is lost.
    pub async fn resize(&self, size_bytes: u64) -> Result<(), Error> {
        let old_bytes = self.image.size_bytes();
        self.resize_data_file(|now| now.max(size_bytes)).await?;
        if size_bytes > old_bytes {
            let image = Rc::clone(&self.image);
            uninterrupted(async move { image.zero_behind_end().await }).await?;
        }
        let backing = self.image.backing.as_ref();
        let backing_bytes = backing.map_or(0, |backing| backing.properties().size_bytes);
        self.change(async move |storage, header| {
            resize::resize(storage, header, size_bytes, backing_bytes).await
        })
        .await?;
        if size_bytes < old_bytes {
            self.resize_data_file(|now| now.min(size_bytes)).await?;
        }
        Ok(())
    }

    /// Gives the data file, if there is one, the length that `new` makes of the one it has.
    async fn resize_data_file(&self, new: impl Fn(u64) -> u64) -> Result<(), Error> {
        let image = Rc::clone(&self.image);
        let Some(old) = image.data_file.as_ref().map(S::size_bytes) else {
            return Ok(());
        };
        let new = new(old);
        uninterrupted(async move {
            if let Some(data_file) = image.data_file.as_ref().filter(|_| new != old) {
                data_file.set_len(new).await?;
                image.data_changed();
            }
            Ok(())
        })
        .await
    }

    /// Makes `backing`, a name and a format, what the image says it stands on; without any, it
    /// stands alone. This looks at no content, and the disk goes on with what it was opened with.
    pub async fn set_backing(&self, backing: Option<(String, String)>) -> Result<(), Error> {
        self.change(async move |storage, header| rebase::rebase(storage, header, backing).await)
            .await
    }

    /// Takes everything out of the image, so that it reads as its backing file does. Snapshots
    /// keep what they hold.
    pub async fn empty(&self) -> Result<(), Error> {
        self.change(async move |storage, header| empty::empty(storage, header).await)
            .await
    }
}

impl<S: Storage> Image<S> {
    /// Makes zeros of what the last cluster holds behind the end of the disk: of the backing file,
    /// or of the disk when it was longer. Before the disk grows, so that nobody ever sees it.
    async fn zero_behind_end(&self) -> Result<(), Error> {
        let _change = self.changes.shared(0, 0).await;
        self.prepare("resize").await?;
        let start = self.size_bytes();
        let end = start.next_multiple_of(self.layout().cluster_bytes());
        let cluster = self.layout().cluster_index(start);
        let _exclusive = self.guest.exclusive(cluster, cluster).await;
        if mutant("a disk grows over old data") {
            return Ok(());
        }
        if start < end && !self.reads_as_zeros(start, end - start).await? {
            let len = usize::try_from(end - start).expect("within a cluster");
            self.write_mapping(start, &Buffers::zeroed(len)).await?;
        }
        Ok(())
    }
}
