//! What the disk is made of.

use super::image::Image;
use super::place::Place;
use crate::request::{SECTOR_BYTES, located};
use crate::{Content, Error, Extent, Storage};

impl<S: Storage> Image<S> {
    /// What is at `offset`, and how far it goes alike, within `len` bytes.
    pub(super) async fn extent(&self, offset: u64, len: u64) -> Result<Extent, Error> {
        let range = located(self.storage.path(), self.size_bytes(), offset, len)?;
        let (first, last) = self.blocks_of(&range);
        let _shared = self.blocks.shared(first, last).await;
        let (place, end) = self.part(&range);
        let nothing = |len, content| Extent {
            len,
            content,
            depth: 0,
            host_offset: None,
        };
        match place {
            Place::Here(host) | Place::Frozen(host) => self.extent_here(host, end - offset).await,
            Place::Zeros => Ok(nothing(end - offset, Content::Zero)),
            Place::Base => {
                let covered = self.header.borrow().covered_bytes;
                let base = self.base.borrow().clone();
                match base {
                    // What the base has behind what it covers is hidden.
                    _ if offset >= covered => Ok(nothing(end - offset, Content::Zero)),
                    Some(base) => {
                        let found = base.extent(offset, end.min(covered) - offset).await?;
                        let depth = found.depth + 1;
                        Ok(Extent { depth, ..found })
                    }
                    None => Ok(nothing(end.min(covered) - offset, Content::Absent)),
                }
            }
        }
    }

    /// What is in the file at `host`.
    async fn extent_here(&self, host: u64, len: u64) -> Result<Extent, Error> {
        let found = self.storage.extent(host, len).await?;
        Ok(Extent {
            len: found.len.next_multiple_of(SECTOR_BYTES).min(len),
            content: if found.data {
                Content::Data
            } else {
                Content::Zero
            },
            depth: 0,
            host_offset: Some(host),
        })
    }
}
