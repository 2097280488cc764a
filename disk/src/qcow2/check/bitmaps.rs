//! Persistent bitmaps: where they are, not what they say.

use super::metadata::Kind;
use super::pass::Pass;
use crate::qcow2::file;
use crate::qcow2::format::{BitmapEntry, BitmapsExtension};
use crate::{Error, Storage};

/// QEMU's limit on the bits of a bitmap, and ours.
const BITMAP_BYTES_MAX: u64 = 512 << 20;

impl<S: Storage> Pass<'_, S> {
    /// Walks the bitmaps. One that is damaged costs them all: they can be made anew.
    pub(super) async fn walk_bitmaps(&mut self, bitmaps: BitmapsExtension) -> Result<(), Error> {
        let (offset, bytes) = (bitmaps.directory_offset, bitmaps.directory_bytes);
        if !self.claim_table(Kind::BitmapDirectory, offset, bytes)? {
            self.fixes.drop_bitmaps = true;
            return Ok(());
        }
        let directory = file::read(self.storage, offset, file::len(bytes)).await?;
        match bitmaps.parse_directory(&directory) {
            Ok(entries) => {
                for entry in entries {
                    self.walk_bitmap(&entry).await?;
                }
            }
            Err(error) => self.drop_bitmaps(error.offset, error.problem),
        }
        Ok(())
    }

    async fn walk_bitmap(&mut self, bitmap: &BitmapEntry) -> Result<(), Error> {
        let offset = bitmap.table_offset;
        let data_bytes = u64::from(bitmap.table_entries) << self.layout().cluster_bits;
        if data_bytes > BITMAP_BYTES_MAX || !bitmap.is_plausible(self.layout()) {
            self.drop_bitmaps(offset, "a bitmap's table is not one it can have".into());
            return Ok(());
        }
        if !self.claim_table(Kind::BitmapTable, offset, bitmap.table_bytes())? {
            self.fixes.drop_bitmaps = true;
            return Ok(());
        }
        let entries = bitmap.table_entries.into();
        let walked = file::for_each_word(self.storage, offset, entries, |index, entry| {
            self.bitmap_table_entry(offset + index * 8, entry);
        })
        .await;
        self.note_unread(offset, "a bitmap table", walked);
        Ok(())
    }

    fn bitmap_table_entry(&mut self, at: u64, entry: u64) {
        let data = BitmapEntry::table_entry_offset(entry);
        // Without data, the lowest bit says what all bits are.
        let known = data.unwrap_or(1);
        if entry & !known != 0 {
            let problem = "a bitmap table entry has reserved bits set";
            self.drop_bitmaps(at, problem.into());
        }
        let Some(data) = data else { return };
        if !self.layout().is_aligned(data) {
            self.drop_bitmaps(at, "a bitmap's data does not start on a cluster".into());
            return;
        }
        match self.clusters(data, self.layout().cluster_bytes()) {
            Ok((start, _)) => self.computed.add(start, 1),
            Err(misplaced) => self.drop_bitmaps(at, misplaced.problem("a bitmap's data")),
        }
    }

    fn drop_bitmaps(&mut self, at: u64, problem: String) {
        self.report.corruption(at, problem);
        self.fixes.drop_bitmaps = true;
        self.fixes.lost_references = true;
    }
}
