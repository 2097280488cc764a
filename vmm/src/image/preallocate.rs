//! Giving a disk its space before it is used.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result};
use disk::qcow2::{self, Qcow2};
use disk::{Buffers, Disk, FileStorage, OpenOptions, Request};
use rustix::fs::{FallocateFlags, fallocate};

use super::in_flight;
use super::interrupt::Interrupt;
use super::options::Preallocation;
use super::progress::Progress;

/// How many zeros are written at once, and how many times.
const WRITE_BYTES: usize = 1 << 20;
const IN_FLIGHT: usize = 16;
/// How much of a qcow2 image is done at once.
const STEP_BYTES: u64 = 64 << 20;

/// Gives bytes their space, somewhere in a disk that reads as zeros there.
pub(super) struct Preallocate<'a> {
    pub(super) range: Range<u64>,
    pub(super) how: Preallocation,
    pub(super) progress: &'a Progress,
    pub(super) interrupt: &'a Interrupt,
}

impl Preallocate<'_> {
    /// In an image whose file has the disk's bytes in their order, from `data_offset` on.
    pub(super) async fn in_order(
        self,
        path: &Path,
        data_offset: u64,
        options: OpenOptions,
    ) -> Result<()> {
        match self.how {
            Preallocation::Off | Preallocation::Metadata => Ok(()),
            Preallocation::Falloc => {
                let range = data_offset + self.range.start..data_offset + self.range.end;
                reserve(path, &range).context("cannot reserve its space")
            }
            Preallocation::Full => {
                let disk = options.open().await?;
                self.write_zeros(&*disk).await?;
                Ok(disk.close().await?)
            }
        }
    }

    /// In a qcow2 image.
    pub(super) async fn qcow2(self, image: &Qcow2<FileStorage>) -> Result<()> {
        let how = match self.how {
            Preallocation::Off => return Ok(()),
            Preallocation::Metadata => qcow2::Preallocation::Metadata,
            Preallocation::Falloc => qcow2::Preallocation::Falloc,
            Preallocation::Full => qcow2::Preallocation::Full,
        };
        let mut offset = self.range.start;
        while offset < self.range.end {
            let len = STEP_BYTES.min(self.range.end - offset);
            image.preallocate(offset, len, how).await?;
            self.interrupt.check()?;
            self.progress.add(len);
            offset += len;
        }
        Ok(())
    }

    async fn write_zeros(&self, disk: &dyn Disk) -> Result<()> {
        let zeros = Buffers::zeroed(WRITE_BYTES);
        let mut offset = self.range.start;
        let next = async || {
            let start = offset;
            offset = self.range.end.min(start + WRITE_BYTES as u64);
            Ok((start < offset).then_some(start..offset))
        };
        let write = async |piece: Range<u64>| {
            let len = piece.end - piece.start;
            let zeros = zeros.slice(0..usize::try_from(len)?);
            disk.submit(Request::write(piece.start, zeros)).await?;
            self.progress.add(len);
            Ok(())
        };
        in_flight::for_each(IN_FLIGHT, self.interrupt, next, write).await
    }
}

fn reserve(path: &Path, range: &Range<u64>) -> std::io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let len = range.end - range.start;
    Ok(fallocate(&file, FallocateFlags::empty(), range.start, len)?)
}
