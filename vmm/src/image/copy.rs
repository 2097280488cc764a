//! Copying what one disk holds into another.

use std::ops::Range;
use std::rc::Rc;

use anyhow::Result;
use disk::flat::Flat;
use disk::qcow2::Qcow2;
use disk::{Disk, FileStorage, Format, OpenOptions, Request};

use super::in_flight;
use super::interrupt::Interrupt;
use super::progress::Progress;
use super::scratch::{Content, Pool};
use super::walk::{Chunk, Kind, Piece, Walk};
use super::zeros::{is_zero, ranges};

/// The unit of requests.
const SECTOR_BYTES: u64 = 512;
/// How much is read at once.
const CHUNK_BYTES: u64 = 1 << 20;
/// How much is zeroed at once: it may take the host a while, and somebody may not want to wait.
const ZERO_BYTES: u64 = 1 << 30;

/// The unit in which a file takes space on almost every file system.
const RAW_UNIT_BYTES: u64 = 4096;

/// A disk that is written.
pub(super) struct Target {
    pub(super) disk: Rc<dyn Disk>,
    /// The same disk, if its clusters are to be compressed.
    pub(super) compressed: Option<Rc<Qcow2<FileStorage>>>,
    /// The unit in which it takes space.
    pub(super) unit_bytes: u64,
    /// What it reads as until it is written.
    pub(super) before: Before,
}

impl Target {
    /// Opens an image that may hold anything.
    pub(super) async fn open(options: OpenOptions, format: Format, compress: bool) -> Result<Self> {
        let target = |disk, unit_bytes, compressed| Self {
            disk,
            compressed,
            unit_bytes,
            before: Before::Anything,
        };
        match format {
            Format::Qcow2 => {}
            Format::Raw => return Ok(target(options.open().await?, RAW_UNIT_BYTES, None)),
            Format::Flat => {
                let flat = options.open_flat().await?;
                let unit_bytes = flat_unit_bytes(&flat);
                return Ok(target(flat, unit_bytes, None));
            }
        }
        let qcow2 = options.open_qcow2().await?;
        let layout = qcow2.header().layout;
        Ok(if compress {
            let disk = Rc::clone(&qcow2) as Rc<dyn Disk>;
            target(disk, layout.cluster_bytes(), Some(qcow2))
        } else {
            target(qcow2, layout.subcluster_bytes(), None)
        })
    }
}

/// The unit in which a flat image takes space: the blocks that it would fill up from its base, or,
/// if it is compact, with zeros.
pub(super) fn flat_unit_bytes(flat: &Flat<FileStorage>) -> u64 {
    let header = flat.header();
    if header.base.is_some() || header.chunks.is_some() {
        header.block_bytes()
    } else {
        RAW_UNIT_BYTES
    }
}

/// What a disk reads as until it is written.
pub(super) enum Before {
    /// Zeros.
    Zeros,
    /// What another disk reads as.
    Backing(Rc<dyn Disk>),
    /// Something else, which must go.
    Anything,
}

/// A copy to be made.
pub(super) struct Copy<'a> {
    pub(super) source: &'a dyn Disk,
    pub(super) target: &'a Target,
    /// How many zeros in a row, from one multiple of this to the next, need not be written.
    pub(super) sparse_bytes: Option<u64>,
    /// What is to be done with a piece of the source.
    pub(super) kind: &'a dyn Fn(&Piece) -> Kind,
    /// Whether the source reads as the target should even where the target has it already: then
    /// that may be read, and written, along with what is beside it in the target's unit.
    pub(super) reads_throughout: bool,
    pub(super) in_flight: usize,
    pub(super) progress: &'a Progress,
    pub(super) interrupt: &'a Interrupt,
}

/// A copy that is being made.
struct Running<'a> {
    copy: &'a Copy<'a>,
    /// The unit in which data is told from what need not be written.
    unit: usize,
    pool: Pool,
}

impl Copy<'_> {
    /// Copies all of the source. What the target has beyond that stays.
    pub(super) async fn run(&self) -> Result<()> {
        let unit = self.target.unit_bytes.max(self.sparse_bytes.unwrap_or(1));
        let chunk_bytes = match self.target.compressed {
            Some(_) => unit,
            None => CHUNK_BYTES.next_multiple_of(unit),
        };
        let running = Running {
            copy: self,
            unit: usize::try_from(unit)?,
            pool: Pool::new(usize::try_from(chunk_bytes)?),
        };
        let size = self.source.properties().size_bytes;
        let mut walk = Walk::new(self.source, 0..size);
        let kind = |piece: &Piece| match (self.kind)(piece) {
            Kind::Zero if self.sparse_bytes.is_none() => Kind::Data,
            kind => kind,
        };
        let unit = if self.reads_throughout {
            unit
        } else {
            SECTOR_BYTES
        };
        let next = async || walk.chunk(unit, chunk_bytes, kind).await;
        let work = |chunk| running.chunk(chunk);
        in_flight::for_each(self.in_flight, self.interrupt, next, work).await
    }
}

impl Running<'_> {
    async fn chunk(&self, chunk: Chunk) -> Result<()> {
        match chunk.kind {
            Kind::Same => {}
            Kind::Zero => self.zero(chunk.offset, chunk.len).await?,
            Kind::Data => self.data(chunk.offset, chunk.len).await?,
        }
        self.copy.progress.add(chunk.len);
        Ok(())
    }

    /// Makes a range read as zeros, as far as it does not.
    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        match &self.copy.target.before {
            Before::Zeros => Ok(()),
            Before::Anything => self.write_zeroes(offset..offset + len).await,
            Before::Backing(backing) => {
                let end = (offset + len).min(backing.properties().size_bytes);
                let mut walk = Walk::new(&**backing, offset.min(end)..end);
                while let Some(piece) = walk.peek().await? {
                    if !piece.extent.content.is_zero() {
                        self.write_zeroes(piece.range()).await?;
                    }
                    walk.take(piece.extent.len);
                }
                Ok(())
            }
        }
    }

    async fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        let mut offset = range.start;
        while offset < range.end {
            let len = (range.end - offset).min(ZERO_BYTES);
            let request = Request::write_zeroes(offset, len, true);
            self.copy.target.disk.submit(request).await?;
            self.copy.interrupt.check()?;
            offset += len;
        }
        Ok(())
    }

    /// Reads a range, and writes of it what the target does not read as already.
    async fn data(&self, offset: u64, len: u64) -> Result<()> {
        let content = self.pool.read(self.copy.source, offset, len).await?;
        let len = content.len();
        let needed = match &self.copy.target.before {
            Before::Backing(backing) => {
                let below = self.pool.read(&**backing, offset, len as u64).await?;
                let differs = |range: Range<usize>| content[range.clone()] != below[range];
                ranges(len, self.unit, differs)
            }
            _ if self.copy.sparse_bytes.is_none() => ranges(len, len, |_| true),
            _ => ranges(len, self.unit, |range| !is_zero(&content[range])),
        };
        if matches!(self.copy.target.before, Before::Anything) {
            for gap in gaps(&needed, len) {
                let range = offset + gap.start as u64..offset + gap.end as u64;
                self.write_zeroes(range).await?;
            }
        }
        for range in needed {
            self.write(offset + range.start as u64, &content, range)
                .await?;
        }
        Ok(())
    }

    async fn write(&self, offset: u64, content: &Content<'_>, range: Range<usize>) -> Result<()> {
        let buffers = content.buffers(range);
        let target = self.copy.target;
        if let Some(qcow2) = &target.compressed {
            return Ok(qcow2.write_compressed(offset, buffers).await?);
        }
        let request = Request::write(offset, buffers);
        Ok(target.disk.submit(request).await?)
    }
}

/// What lies between `ranges` of `0..len`.
fn gaps(ranges: &[Range<usize>], len: usize) -> Vec<Range<usize>> {
    let starts = [0].into_iter().chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain([len]);
    let gaps = starts.zip(ends).map(|(start, end)| start..end);
    gaps.filter(|gap| !gap.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_not_in_a_range() {
        let whole = Range { start: 0, end: 5 };
        assert_eq!(gaps(&[], 5), std::slice::from_ref(&whole));
        assert!(gaps(&[whole], 5).is_empty());
        assert_eq!(gaps(&[1..2, 3..4], 5), [0..1, 2..3, 4..5]);
    }
}
