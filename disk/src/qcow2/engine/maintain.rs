//! Changing an image as a whole, while nobody uses it: requests wait meanwhile.

use std::rc::Rc;

use super::Qcow2;
use super::allocator::Allocation;
use super::image::Image;
use super::watched::Watched;
use crate::executor::uninterrupted;
use crate::journal::Journaled as _;
use crate::qcow2::file;
use crate::qcow2::format::{Cluster, Header, SnapshotEntry, Subclusters};
use crate::qcow2::snapshot::{self, NewSnapshot};
use crate::storage::write_zeros;
use crate::{Error, Storage};

/// How much to write at the end of what a file must hold.
const LAST_BYTES: usize = 512;

/// How much to do so that later writes find their place ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preallocation {
    /// Only tables are made: the file has holes.
    Metadata,
    /// The host sets space aside.
    Falloc,
    /// Zeros are written.
    Full,
}

impl<S: Storage> Qcow2<S> {
    /// The internal snapshots, oldest first.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotEntry>, Error> {
        let _unchanged = self.image.guest.shared(0, u64::MAX).await;
        let header = self.header();
        snapshot::list(&self.image.storage, &header).await
    }

    /// Takes an internal snapshot of the disk as it is now.
    pub async fn create_snapshot(&self, new: NewSnapshot) -> Result<(), Error> {
        self.change(async move |storage, header| snapshot::create(storage, header, &new).await)
            .await
    }

    /// Makes the disk what it was at an internal snapshot, its size included.
    pub async fn apply_snapshot(&self, id_or_name: &str) -> Result<(), Error> {
        let name = id_or_name.to_owned();
        self.change(async move |storage, header| snapshot::apply(storage, header, &name).await)
            .await
    }

    /// Forgets an internal snapshot. A name comes before an ID, which are the other way round
    /// elsewhere.
    pub async fn delete_snapshot(&self, name_or_id: &str) -> Result<(), Error> {
        let name = name_or_id.to_owned();
        self.change(async move |storage, header| snapshot::delete(storage, header, &name).await)
            .await
    }

    /// Gives the parts of a range their place in the file that have none and read as zeros.
    pub async fn preallocate(
        &self,
        offset: u64,
        len: u64,
        how: Preallocation,
    ) -> Result<(), Error> {
        let image = Rc::clone(&self.image);
        uninterrupted(async move {
            let _change = image.changes.shared(0, 0).await;
            image.prepare("preallocate").await?;
            let end = offset.saturating_add(len).min(image.size_bytes());
            let mut at = image.layout().cluster_start(offset);
            while at < end {
                at += image.preallocate_run(at, end - at, how).await?;
                image.relieve().await?;
            }
            Ok(())
        })
        .await
    }

    /// Has the image changed by `change`, which gets the header and returns the new one.
    pub(super) async fn change<F>(&self, change: F) -> Result<(), Error>
    where
        F: AsyncFnOnce(&Watched<S>, &Header) -> Result<Header, Error> + 'static,
    {
        let image = Rc::clone(&self.image);
        uninterrupted(async move {
            let _changes = image.changes.all().await;
            let _everything = image.guest.all().await;
            image.check_writable("change the image")?;
            // Whoever changes it finds an ordinary image, all of it in its place.
            image.settle().await?;
            image.give_up_claims().await?;
            let header = image.header.borrow().clone();
            let changed = change(&Watched(Rc::clone(&image)), &header).await;
            image.reload(changed.as_ref().unwrap_or(&header)).await?;
            changed.map(drop)
        })
        .await
    }
}

impl<S: Storage> Image<S> {
    /// Starts again with what is in the file.
    async fn reload(&self, header: &Header) -> Result<(), Error> {
        let file_clusters = header.layout.clusters_for(self.storage.size_bytes());
        self.header.replace(header.clone());
        self.metadata.clear();
        self.decompressed.clear();
        self.forget_all_alike();
        self.kinds.borrow_mut().clear();
        self.free_space.reset(file_clusters);
        self.learn_kinds(header).await
    }

    /// Handles the clusters from `start` on that are alike. Returns how many bytes those are.
    async fn preallocate_run(
        &self,
        start: u64,
        len: u64,
        how: Preallocation,
    ) -> Result<u64, Error> {
        let layout = self.layout();
        let last = layout.cluster_index(start + len - 1);
        let _exclusive = self
            .guest
            .exclusive(layout.cluster_index(start), last)
            .await;
        let has_place = |cluster: &Cluster| cluster.host_range(layout).is_some();
        let mut clusters = 0;
        while clusters << layout.cluster_bits < len {
            let at = start + (clusters << layout.cluster_bits);
            let cluster = self.cluster_at(at).await?;
            let is_free =
                !has_place(&cluster) && self.reads_as_zeros(at, layout.cluster_bytes()).await?;
            if !is_free {
                break;
            }
            clusters += 1;
        }
        if clusters == 0 {
            return Ok(layout.cluster_bytes());
        }
        let place = self.place_for(start, clusters).await?;
        let bytes = place.clusters << layout.cluster_bits;
        if let Err(error) = self
            .make_zeros(place.offset, bytes, place.is_zero, how)
            .await
        {
            self.unallocate(place).await;
            return Err(error);
        }
        for n in 0..place.clusters {
            let cluster = Cluster::Standard {
                host: Some(place.offset + (n << layout.cluster_bits)),
                copied: true,
                subclusters: Subclusters::whole(layout),
            };
            let at = start + (n << layout.cluster_bits);
            let mapped = match self.cluster_at(at).await {
                Ok(old) => self.map(at, old, cluster, false).await,
                Err(error) => Err(error),
            };
            if let Err(error) = mapped {
                let left = Allocation {
                    offset: place.offset + (n << layout.cluster_bits),
                    clusters: place.clusters - n,
                    ..place
                };
                self.unallocate(left).await;
                return Err(error);
            }
            if let Some(journal) = self.journal() {
                journal.checks.note_unchecked();
            }
        }
        Ok(bytes)
    }

    /// Makes host clusters zeros that are about to be the guest's.
    async fn make_zeros(
        &self,
        offset: u64,
        len: u64,
        is_zero: bool,
        how: Preallocation,
    ) -> Result<(), Error> {
        let storage = self.data_storage();
        if storage.size_bytes() < offset + len {
            // Setting a length could cut off what another request writes behind this meanwhile.
            let last = vec![0; LAST_BYTES];
            file::write(storage, offset + len - LAST_BYTES as u64, last).await?;
        }
        let result = match how {
            Preallocation::Metadata if is_zero => Ok(()),
            Preallocation::Metadata | Preallocation::Falloc => {
                storage.write_zeroes(offset, len, false).await
            }
            Preallocation::Full => write_zeros(storage, offset..offset + len).await,
        };
        self.data_changed();
        result
    }
}
