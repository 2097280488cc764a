//! Telling what is where.

use super::image::Image;
use super::mapping::{Run, Source};
use crate::{Content, Disk, Error, Extent, Storage};

impl<S: Storage> Image<S> {
    /// What is at `offset`, and how far it goes alike.
    pub(super) async fn extent(&self, offset: u64, len: u64) -> Result<Extent, Error> {
        let last = self.layout().cluster_index(offset + len - 1);
        let first = self.layout().cluster_index(offset);
        let _shared = self.guest.shared(first, last).await;
        let run = self.next_run(offset, len).await?;
        let (content, host_offset) = match run.source {
            Source::Host { offset, .. } => (Content::Data, Some(offset)),
            Source::Zero { host } => (Content::Zero, host),
            Source::Compressed { .. } => (Content::Compressed, None),
            Source::Backing => return self.backing_extent(offset, run).await,
        };
        Ok(Extent {
            len: run.len,
            content,
            depth: 0,
            host_offset,
        })
    }

    async fn backing_extent(&self, offset: u64, run: Run) -> Result<Extent, Error> {
        let size_bytes = |disk: &dyn Disk| disk.properties().size_bytes;
        match &self.backing {
            Some(backing) if offset < size_bytes(&**backing) => {
                let len = run.len.min(size_bytes(&**backing) - offset);
                let extent = backing.extent(offset, len).await?;
                Ok(Extent {
                    depth: extent.depth + 1,
                    ..extent
                })
            }
            _ => Ok(Extent {
                len: run.len,
                content: Content::Absent,
                depth: 0,
                host_offset: None,
            }),
        }
    }
}
