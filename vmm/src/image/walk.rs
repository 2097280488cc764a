//! Going through a disk from its start to its end.

use std::ops::Range;

use anyhow::Result;
use disk::{Disk, Extent};

/// A stretch of a disk that is made of one thing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Where it starts, in bytes.
    pub(super) offset: u64,
    /// What it is, and how far it goes.
    pub(super) extent: Extent,
}

impl Piece {
    /// The bytes of the disk.
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.extent.len
    }
}

/// The pieces of a range of a disk, in order.
pub(super) struct Walk<'a> {
    disk: &'a dyn Disk,
    range: Range<u64>,
    /// What starts at the start of the range.
    ahead: Option<Extent>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(disk: &'a dyn Disk, range: Range<u64>) -> Self {
        Self {
            disk,
            range,
            ahead: None,
        }
    }

    /// The next piece, if the range goes on, without taking it.
    pub(super) async fn peek(&mut self) -> Result<Option<Piece>> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let offset = self.range.start;
        let extent = match self.ahead {
            Some(extent) => extent,
            None => self.disk.extent(offset, self.range.end - offset).await?,
        };
        self.ahead = Some(extent);
        Ok(Some(Piece { offset, extent }))
    }

    /// Goes on by `len` bytes, at most to the end of the piece.
    pub(super) fn take(&mut self, len: u64) {
        self.range.start += len;
        self.ahead = self
            .ahead
            .map(|extent| Extent {
                len: extent.len.saturating_sub(len),
                host_offset: extent.host_offset.map(|offset| offset + len),
                ..extent
            })
            .filter(|extent| extent.len > 0);
    }
}

/// What is to be done with a stretch of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The target has it already.
    Same,
    /// It reads as zeros.
    Zero,
    /// It must be read.
    Data,
}

/// A stretch that is copied at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) kind: Kind,
}

impl Walk<'_> {
    /// The next stretch to be copied, from one multiple of `unit` to another, or to the end. Data
    /// ends at the next multiple of `data_max`. A stretch of something else than data that fills
    /// no unit is read along with the data beside it.
    pub(super) async fn chunk(
        &mut self,
        unit: u64,
        data_max: u64,
        kind: impl Fn(&Piece) -> Kind,
    ) -> Result<Option<Chunk>> {
        let Some(first) = self.peek().await? else {
            return Ok(None);
        };
        let offset = first.offset;
        let units = self.whole_units(&first, offset, unit);
        if kind(&first) != Kind::Data && units > offset {
            let (len, kind) = (units - offset, kind(&first));
            self.take(len);
            return Ok(Some(Chunk { offset, len, kind }));
        }
        let stop = self.range.end.min((offset + 1).next_multiple_of(data_max));
        let mut end = offset;
        while end < stop
            && let Some(piece) = self.peek().await?
        {
            let aligned = end.next_multiple_of(unit).min(stop);
            let other = kind(&piece) != Kind::Data;
            let until = if other && self.whole_units(&piece, aligned, unit) > aligned {
                aligned
            } else {
                piece.range().end.min(stop)
            };
            if until == end {
                break;
            }
            self.take(until - end);
            end = until;
        }
        let len = end - offset;
        let kind = Kind::Data;
        Ok(Some(Chunk { offset, len, kind }))
    }

    /// Where the last unit ends that begins at `start` or later and is filled by `piece`.
    fn whole_units(&self, piece: &Piece, start: u64, unit: u64) -> u64 {
        let end = piece.range().end;
        if end == self.range.end {
            end
        } else {
            (end / unit * unit).max(start)
        }
    }
}
