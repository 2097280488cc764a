//! Writing: in place where the guest's data has a cluster of its own, else to a new cluster, with
//! what the write leaves out copied around it.

use futures_util::future::join_all;

use super::allocator::Allocation;
use super::image::Image;
use super::mapping::Source;
use super::new_data::NewData;
use super::read::slice;
use crate::journal::{Journaled as _, overwrite};
use crate::mutant::mutant;
use crate::qcow2::format::{Cluster, Layout, Subclusters};
use crate::{Buffers, Error, Storage};

/// Some bytes of a host cluster, to write at once.
pub(super) struct Piece {
    host: u64,
    buffers: Buffers,
}

impl<S: Storage> Image<S> {
    /// Writes at `offset` of the disk.
    pub(super) async fn write(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let layout = self.layout();
        let first = layout.cluster_index(offset);
        let last = layout.cluster_index(offset + buffers.len() as u64 - 1);
        let shared = self.guest.shared(first, last).await;
        if let Some(pieces) = self.in_place(offset, &buffers).await? {
            return self.write_pieces(pieces).await;
        }
        drop(shared);
        let _exclusive = self.guest.exclusive(first, last).await;
        self.write_mapping(offset, &buffers).await
    }

    /// Where the data goes, if all of it has a place that is its own.
    pub(super) async fn in_place(
        &self,
        offset: u64,
        buffers: &Buffers,
    ) -> Result<Option<Vec<Piece>>, Error> {
        let len = buffers.len() as u64;
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < len {
            let run = self.next_run(offset + done, len - done).await?;
            let Source::Host {
                offset: host,
                copied,
            } = run.source
            else {
                return Ok(None);
            };
            if !copied && !mutant("COPIED is ignored by writes") {
                return Ok(None);
            }
            let buffers = slice(buffers, done, run.len);
            pieces.push(Piece { host, buffers });
            done += run.len;
        }
        Ok(Some(pieces))
    }

    /// Writes guest data. Waits for all of it even if some fails, for the clusters may be another's
    /// afterwards.
    pub(super) async fn write_pieces(&self, pieces: Vec<Piece>) -> Result<(), Error> {
        for Piece { host, buffers } in &pieces {
            self.forget_alike(&(*host..*host + buffers.len() as u64));
        }
        let writes = pieces
            .into_iter()
            .map(|piece| overwrite(self, piece.host, piece.buffers));
        let mut results = join_all(writes).await.into_iter();
        results.try_for_each(|result| result.map(drop))
    }

    /// Writes at `offset`, and changes the mapping where it must. The caller holds the clusters
    /// exclusively.
    pub(super) async fn write_mapping(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let layout = self.layout();
        let len = buffers.len() as u64;
        let mut done = 0;
        while done < len {
            self.relieve_here().await?;
            let at = offset + done;
            let left = slice(buffers, done, len - done);
            done += match self.cluster_at(at).await? {
                Cluster::Standard {
                    host: Some(host),
                    copied: true,
                    subclusters,
                } => {
                    let room = layout.cluster_bytes() - layout.in_cluster(at);
                    let part = slice(&left, 0, room.min(len - done));
                    self.write_own(at, &part, host, subclusters).await?;
                    part.len() as u64
                }
                _ => self.write_new(at, &left).await?,
            };
        }
        Ok(())
    }

    /// Writes to a cluster that has its place, but perhaps not all of its data there.
    async fn write_own(
        &self,
        offset: u64,
        buffers: &Buffers,
        host: u64,
        before: Subclusters,
    ) -> Result<(), Error> {
        let layout = self.layout();
        let end = offset + buffers.len() as u64;
        let touched = mask(layout, offset, end);
        let missing = |at| before.allocated >> layout.subcluster_index(at) & 1 == 0;
        let start = align_down(offset, layout.subcluster_bytes());
        let head = missing(offset).then_some((start, offset));
        let tail_end = end.next_multiple_of(layout.subcluster_bytes());
        let tail = missing(end - 1).then_some((end, tail_end));
        let (at, data) = self.surrounded(offset, buffers, head, tail, false).await?;
        let place = host + layout.in_cluster(at);
        self.forget_alike(&(host..host + layout.cluster_bytes()));
        let in_place = overwrite(self, place, data).await?;
        if before.allocated & touched == touched {
            return Ok(());
        }
        let old = Cluster::Standard {
            host: Some(host),
            copied: true,
            subclusters: before,
        };
        let subclusters = Subclusters {
            allocated: before.allocated | touched,
            zero: before.zero & !touched,
        };
        let cluster = Cluster::Standard {
            host: Some(host),
            copied: true,
            subclusters,
        };
        self.map(offset, old, cluster, false).await?;
        if let Some(journal) = self.guarding_journal() {
            for range in in_place {
                journal.checks.note_fresh(range);
            }
        }
        Ok(())
    }

    /// The data with what is read around it; and where that starts. What `may_skip` and is zeros
    /// is left out.
    async fn surrounded(
        &self,
        offset: u64,
        buffers: &Buffers,
        head: Option<(u64, u64)>,
        tail: Option<(u64, u64)>,
        may_skip: bool,
    ) -> Result<(u64, Buffers), Error> {
        let head = self.surrounding(head, may_skip).await?;
        let tail = self.surrounding(tail, may_skip).await?;
        let start = offset - head.as_ref().map_or(0, |head| head.len() as u64);
        if head.is_none() && tail.is_none() {
            return Ok((start, buffers.clone()));
        }
        let parts = [head, Some(buffers.clone()), tail];
        Ok((start, Buffers::concat(parts.into_iter().flatten())))
    }

    async fn surrounding(
        &self,
        range: Option<(u64, u64)>,
        may_skip: bool,
    ) -> Result<Option<Buffers>, Error> {
        let Some((start, end)) = range.filter(|(start, end)| start < end) else {
            return Ok(None);
        };
        if may_skip && self.reads_as_zeros(start, end - start).await? {
            return Ok(None);
        }
        let content = Buffers::zeroed(usize::try_from(end - start).expect("within a cluster"));
        self.read(start, &content).await?;
        Ok(Some(content))
    }

    /// Writes to new clusters, as many as follow each other in the file. Returns how much.
    async fn write_new(&self, offset: u64, buffers: &Buffers) -> Result<u64, Error> {
        let layout = self.layout();
        let old = self
            .clusters_to_replace(offset, buffers.len() as u64)
            .await?;
        let start = layout.cluster_start(offset);
        let new = self.place_for(start, old.len() as u64).await?;
        let end = start + (new.clusters << layout.cluster_bits);
        let part = slice(buffers, 0, (end - offset).min(buffers.len() as u64));
        let old = &old[..usize::try_from(new.clusters).expect("at most as many")];
        match self.fill_new(offset, &part, old, new).await {
            Ok(filled) => self.map_new(offset, &part, old, new, filled).await?,
            Err(error) => {
                self.unallocate(new).await;
                return Err(error);
            }
        }
        Ok(part.len() as u64)
    }

    /// Host clusters for guest clusters from `start` on. In a data file each has its own.
    pub(super) async fn place_for(&self, start: u64, clusters: u64) -> Result<Allocation, Error> {
        if self.data_file.is_some() {
            return Ok(Allocation {
                offset: start,
                clusters,
                is_zero: false,
            });
        }
        self.allocate(clusters.min(self.clusters_at_once())).await
    }

    /// The clusters of a range, up to the first that has a place of its own.
    async fn clusters_to_replace(&self, offset: u64, len: u64) -> Result<Vec<Cluster>, Error> {
        let layout = self.layout();
        let mut clusters = Vec::new();
        let mut at = layout.cluster_start(offset);
        while at < offset + len {
            let cluster = self.cluster_at(at).await?;
            let has_place = matches!(
                cluster,
                Cluster::Standard {
                    host: Some(_),
                    copied: true,
                    ..
                }
            );
            if has_place {
                break;
            }
            clusters.push(cluster);
            at += layout.cluster_bytes();
        }
        Ok(clusters)
    }

    /// Writes the data to its new place, or keeps it for the journal. What is written a journal must
    /// vouch for, unless what is there if it gets lost is what the guest had there before.
    async fn fill_new(
        &self,
        offset: u64,
        buffers: &Buffers,
        old: &[Cluster],
        new: Allocation,
    ) -> Result<NewData, Error> {
        let layout = self.layout();
        let end = offset + buffers.len() as u64;
        let head = (align_down(offset, unit(old[0], layout)), offset);
        let last_unit = unit(old[old.len() - 1], layout);
        let tail = (end, end.next_multiple_of(last_unit));
        let is_zero = new.is_zero || mutant("a used cluster is taken for zeros");
        let (at, data) = self
            .surrounded(offset, buffers, Some(head), Some(tail), is_zero)
            .await?;
        let host = new.offset + (at - layout.cluster_start(offset));
        let (start, len) = (at, data.len() as u64);
        if let Some(kept) = self.keep_new(host, &data, new) {
            return Ok(kept);
        }
        self.write_host(host, data).await?;
        let same = is_zero && self.reads_as_zeros(start, len).await?;
        Ok(if same {
            NewData::InPlace
        } else {
            NewData::Unproven(host..host + len)
        })
    }

    /// Maps the clusters that a write touches to new ones. Where that fails, those before stay as
    /// they are then, and the others go back.
    async fn map_new(
        &self,
        offset: u64,
        buffers: &Buffers,
        old: &[Cluster],
        new: Allocation,
        filled: NewData,
    ) -> Result<(), Error> {
        let layout = self.layout();
        let end = offset + buffers.len() as u64;
        let mut start = layout.cluster_start(offset);
        let mut left = new;
        for old in old {
            let cluster_end = start + layout.cluster_bytes();
            let unit = unit(*old, layout);
            let from = align_down(offset.max(start), unit);
            let to = end.min(cluster_end).next_multiple_of(unit);
            let allocated = mask(layout, from, to);
            let zero = match old {
                Cluster::Standard { subclusters, .. } => subclusters.zero & !allocated,
                Cluster::Compressed { .. } => 0,
            };
            let cluster = Cluster::Standard {
                host: Some(left.offset),
                copied: true,
                subclusters: Subclusters { allocated, zero },
            };
            if let Err(error) = self.map(start, *old, cluster, false).await {
                self.unallocate(left).await;
                return Err(error);
            }
            if let Some(journal) = self.guarding_journal() {
                filled.mapped(
                    &journal,
                    &(left.offset..left.offset + layout.cluster_bytes()),
                );
            }
            start = cluster_end;
            left.offset += layout.cluster_bytes();
            left.clusters -= 1;
        }
        Ok(())
    }
}

/// What must be filled as a whole in a cluster that moves: all of it if it has data elsewhere.
fn unit(old: Cluster, layout: Layout) -> u64 {
    match old {
        Cluster::Standard { host: None, .. } => layout.subcluster_bytes(),
        Cluster::Standard { host: Some(_), .. } | Cluster::Compressed { .. } => {
            layout.cluster_bytes()
        }
    }
}

/// The subclusters of one cluster that a range touches.
pub(super) fn mask(layout: Layout, start: u64, end: u64) -> u32 {
    let (first, last) = (
        layout.subcluster_index(start),
        layout.subcluster_index(end - 1),
    );
    (u32::MAX << first) & (u32::MAX >> (31 - last))
}

fn align_down(offset: u64, unit: u64) -> u64 {
    offset - offset % unit
}
