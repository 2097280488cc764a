//! What the disk is made of.

use super::image::Image;
use crate::request::{SECTOR_BYTES, located};
use crate::{Content, Error, Extent, Storage};

impl<S: Storage> Image<S> {
    /// What is at `offset`, and how far it goes alike, within `len` bytes.
    pub(super) async fn extent(&self, offset: u64, len: u64) -> Result<Extent, Error> {
        let range = located(self.storage.path(), self.size_bytes(), offset, len)?;
        let (first, last) = self.lock_range(&range);
        let _shared = self.blocks.shared(first, last).await;
        let (local, run_end) = self.run(&range);
        if local {
            let found = self
                .storage
                .extent(self.host(offset), run_end - offset)
                .await?;
            return Ok(Extent {
                len: found
                    .len
                    .next_multiple_of(SECTOR_BYTES)
                    .min(run_end - offset),
                content: if found.data {
                    Content::Data
                } else {
                    Content::Zero
                },
                depth: 0,
                host_offset: Some(self.host(offset)),
            });
        }
        let covered = self.header.borrow().covered_bytes;
        let base = self.base.borrow().clone();
        let nothing = |len, content| Extent {
            len,
            content,
            depth: 0,
            host_offset: None,
        };
        match base {
            // What the base has behind what it covers is hidden.
            _ if offset >= covered => Ok(nothing(run_end - offset, Content::Zero)),
            Some(base) => {
                let found = base.extent(offset, run_end.min(covered) - offset).await?;
                Ok(Extent {
                    depth: found.depth + 1,
                    ..found
                })
            }
            None => Ok(nothing(run_end.min(covered) - offset, Content::Absent)),
        }
    }
}
