//! Discarding, and writing zeros: without writing where the tables can say it.

use super::image::Image;
use super::write::mask;
use crate::executor::yield_now;
use crate::qcow2::format::{Cluster, Subclusters};
use crate::{Buffers, Error, Storage};

/// After so many clusters, other requests get a turn.
const CLUSTERS_IN_A_TURN: u64 = 64;

/// How to make clusters zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeroing {
    /// They are not needed any more.
    Discard,
    /// They must be zeros, and may lose their place.
    Unmap,
    /// They must be zeros, and keep their place.
    Keep,
}

impl<S: Storage> Image<S> {
    /// Makes whole clusters zeros that nobody needs any more. Parts of clusters stay as they are,
    /// as does everything that only writing could make zeros.
    pub(super) async fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        let cluster_bytes = self.layout().cluster_bytes();
        let end = match offset + len {
            end if end == self.size_bytes() => end.next_multiple_of(cluster_bytes),
            end => end - end % cluster_bytes,
        };
        let start = offset.next_multiple_of(cluster_bytes);
        let backed = self.backing.is_some();
        if start >= end || (backed && self.version() < 3) {
            return Ok(());
        }
        self.each_cluster(start, end, Zeroing::Discard).await
    }

    /// Makes a range zeros.
    pub(super) async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> Result<(), Error> {
        let how = if unmap { Zeroing::Unmap } else { Zeroing::Keep };
        let end = match offset + len {
            end if end == self.size_bytes() => end.next_multiple_of(self.layout().cluster_bytes()),
            end => end,
        };
        self.each_cluster(offset, end, how).await
    }

    /// Handles a range cluster by cluster, each held exclusively while it is changed.
    async fn each_cluster(&self, start: u64, end: u64, how: Zeroing) -> Result<(), Error> {
        let layout = self.layout();
        let (mut at, mut steps) = (start, 0);
        while at < end {
            steps += 1;
            if steps % CLUSTERS_IN_A_TURN == 0 {
                yield_now().await;
            }
            if let Some(next) = self.skip_absent(at, end).await? {
                at = next;
                continue;
            }
            let next = (layout.cluster_start(at) + layout.cluster_bytes()).min(end);
            let cluster = layout.cluster_index(at);
            let _exclusive = self.guest.exclusive(cluster, cluster).await;
            self.zero_in_cluster(at, next, how).await?;
            self.relieve_here().await?;
            at = next;
        }
        Ok(())
    }

    /// Where a stretch ends that is zeros because nothing says otherwise, if there is one.
    async fn skip_absent(&self, at: u64, end: u64) -> Result<Option<u64>, Error> {
        if self.backing.is_some() || self.data_file.is_some() {
            return Ok(None);
        }
        let run = self.next_run(at, end - at).await?;
        let absent = run.source == super::mapping::Source::Backing;
        Ok(absent.then_some(at + run.len))
    }

    /// Makes `start` to `end` zeros, which are in one cluster.
    pub(super) async fn zero_in_cluster(
        &self,
        start: u64,
        end: u64,
        how: Zeroing,
    ) -> Result<(), Error> {
        let cluster = self.cluster_at(start).await?;
        let layout = self.layout();
        if self.data_file.is_some() && !self.zero_data_file(start, end, cluster, how).await? {
            return Ok(());
        }
        let unit = layout.subcluster_bytes();
        let inner = (start.next_multiple_of(unit), end - end % unit);
        let Some(new) = self.zeroed(cluster, inner.0, inner.1, how) else {
            return self.write_zeros(start, end).await;
        };
        if inner.0 < inner.1 && new != cluster {
            self.map(start, cluster, new, how != Zeroing::Keep).await?;
        }
        if inner.0 >= inner.1 {
            return self.write_zeros(start, end).await;
        }
        self.write_zeros(start, inner.0).await?;
        self.write_zeros(inner.1, end).await
    }

    /// What `cluster` becomes when whole subclusters of it are zeros; absent if its entry cannot
    /// say so.
    fn zeroed(&self, cluster: Cluster, start: u64, end: u64, how: Zeroing) -> Option<Cluster> {
        let layout = self.layout();
        if start >= end {
            return Some(cluster);
        }
        let touched = mask(layout, start, end);
        let whole = touched.count_ones() == layout.subclusters();
        let (host, copied, before) = match cluster {
            Cluster::Standard {
                host,
                copied,
                subclusters,
            } => (host, copied, subclusters),
            Cluster::Compressed { .. } if whole => (None, false, Subclusters::default()),
            Cluster::Compressed { .. } => return None,
        };
        let keeps = how == Zeroing::Keep && copied;
        let must_say = self.backing.is_some() || (keeps && host.is_some()) || !whole;
        if must_say && self.version() < 3 {
            // Version 2 has no zero clusters.
            let zero_already = host.is_none() && self.backing.is_none();
            return zero_already.then_some(cluster);
        }
        let zero = if must_say { touched } else { 0 };
        let subclusters = Subclusters {
            allocated: before.allocated & !touched,
            zero: (before.zero & !touched) | zero,
        };
        let needs_host = subclusters.allocated != 0 || keeps;
        let host = host.filter(|_| needs_host);
        Some(Cluster::Standard {
            host,
            copied: copied && host.is_some(),
            subclusters,
        })
    }

    /// Writes zeros into a part of a cluster, unless they are there.
    async fn write_zeros(&self, start: u64, end: u64) -> Result<(), Error> {
        let end = end.min(self.size_bytes());
        if start >= end || self.reads_as_zeros(start, end - start).await? {
            return Ok(());
        }
        let len = usize::try_from(end - start).expect("within a cluster");
        self.write_mapping(start, &Buffers::zeroed(len)).await
    }

    /// In a data file a cluster never loses its place: zeros go there. Returns whether the tables
    /// are to be changed as well.
    async fn zero_data_file(
        &self,
        start: u64,
        end: u64,
        cluster: Cluster,
        how: Zeroing,
    ) -> Result<bool, Error> {
        let data = self.data_storage();
        // The whole of the range, not only the cluster: other subclusters may be of the backing
        // file still.
        let touched = mask(self.layout(), start, end);
        let has_place = matches!(
            cluster,
            Cluster::Standard { host: Some(_), subclusters, .. }
                if subclusters.allocated & touched == touched
        );
        let is_raw = self.is_data_file_raw();
        if !has_place && !is_raw {
            return Ok(true);
        }
        // Past the end of the data file all is zeros.
        let end = end.min(data.size_bytes());
        if start < end {
            let unmap = how != Zeroing::Keep;
            let result = data.write_zeroes(start, end - start, unmap).await;
            self.data_changed();
            result?;
        }
        Ok(!has_place && !is_raw)
    }
}
