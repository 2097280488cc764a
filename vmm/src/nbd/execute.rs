//! Does what a client asks, on the disk.

use std::cell::Cell;
use std::ops::Range;

use disk::{Buffers, Extent};

use super::export::Export;
use super::pool::Pool;
use super::request::{Command, Refusal, Request};
use super::wire::{Descriptor, Errno, state};

/// Left before the data of a read, for the start of the reply. The data itself stays aligned.
pub(super) const HEADROOM: usize = 4096;
/// What disks address.
const SECTOR_BYTES: u64 = 512;
/// Read at a time to bring data into the host's cache.
pub(super) const CACHE_STEP_BYTES: usize = 256 << 10;
/// Stretches of a block status reply. The client asks again for what is missing.
const DESCRIPTORS_MAX: usize = 2048;
/// Questions to the disk for one reply; several of its answers may make one stretch.
const EXTENTS_MAX: usize = 4096;

/// What comes of a request.
pub(super) enum Answer {
    /// Nothing to say.
    Done,
    /// The data, behind [`HEADROOM`] bytes of room.
    Data(Buffers),
    /// The data is nothing but zeros.
    Zeros,
    /// What the range is made of.
    Status(Vec<Descriptor>),
}

/// How requests of one client are done.
pub(super) struct How<'a> {
    pub(super) pool: &'a Pool,
    /// Whether zeros need not be sent.
    pub(super) find_zeros: bool,
    /// Whether the client has gone, so that what is done for it alone need not be done.
    pub(super) over: &'a Cell<bool>,
}

/// Does `request`, a write with its `data`.
pub(super) async fn execute(
    export: &Export,
    request: &Request,
    data: Option<Buffers>,
    how: &How<'_>,
) -> Result<Answer, Refusal> {
    let done = match (request.command, data) {
        (Command::Flush, _) => export.flush().await,
        _ if request.len == 0 => Ok(()),
        (Command::Read, _) => return export.read(request, how).await,
        (Command::BlockStatus { one }, _) => return export.status(request, one).await,
        (Command::Cache, _) => export.cache(request.range(), how).await,
        (Command::Write, Some(data)) => export.write(request.offset, data).await,
        // A write comes with its data.
        (Command::Write, None) => Err(Errno::Invalid),
        (Command::Trim, _) => export.trim(request.range()).await,
        (Command::WriteZeroes { keep, fast }, _) => {
            export.write_zeroes(request.range(), keep, fast).await
        }
    };
    done.map_err(failed)?;
    if request.durable && request.command != Command::Flush && request.command.changes() {
        export.flush().await.map_err(failed)?;
    }
    Ok(Answer::Done)
}

fn failed(errno: Errno) -> Refusal {
    Refusal { errno, reason: "" }
}

impl Export {
    async fn submit(&self, request: disk::Request) -> Result<(), Errno> {
        let done = self.disk.submit(request).await;
        done.map_err(|error| self.errno(&error))
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.submit(disk::Request::flush()).await
    }

    async fn read(&self, request: &Request, how: &How<'_>) -> Result<Answer, Refusal> {
        let range = request.range();
        let sectors = sectors(&range);
        let memory = how
            .pool
            .take(HEADROOM + to_usize(sectors.end - sectors.start));
        let whole = memory.slice(HEADROOM..memory.len());
        self.submit(disk::Request::read(sectors.start, whole))
            .await
            .map_err(failed)?;
        let start = to_usize(range.start - sectors.start);
        let memory = memory.slice(start..start + HEADROOM + request.data_bytes());
        if how.find_zeros && memory.slice(HEADROOM..memory.len()).is_zero() {
            return Ok(Answer::Zeros);
        }
        Ok(Answer::Data(memory))
    }

    async fn write(&self, offset: u64, data: Buffers) -> Result<(), Errno> {
        let range = offset..offset + data.len() as u64;
        let sectors = sectors(&range);
        let _turn = self.writes.turn(sectors.clone(), sectors != range).await;
        self.write_in_turn(range, data).await
    }

    /// Writes bytes that nobody else changes. The sectors at the edges are read first if only parts
    /// of them are written.
    async fn write_in_turn(&self, range: Range<u64>, data: Buffers) -> Result<(), Errno> {
        let sectors = sectors(&range);
        if sectors == range {
            return self.submit(disk::Request::write(range.start, data)).await;
        }
        let whole = Buffers::zeroed(to_usize(sectors.end - sectors.start));
        let first = sectors.start..sectors.start + SECTOR_BYTES;
        let last = sectors.end - SECTOR_BYTES..sectors.end;
        let part = |range: &Range<u64>| {
            whole.slice(to_usize(range.start - sectors.start)..to_usize(range.end - sectors.start))
        };
        for edge in [&first, &last] {
            self.submit(disk::Request::read(edge.start, part(edge)))
                .await?;
        }
        part(&range).copy_from(&data.to_vec());
        self.submit(disk::Request::write(sectors.start, whole))
            .await
    }

    /// Trims the whole sectors within the range; the rest is too small to be given back.
    async fn trim(&self, range: Range<u64>) -> Result<(), Errno> {
        let range = inner_sectors(&range);
        if range.is_empty() {
            return Ok(());
        }
        let _turn = self.writes.turn(range.clone(), false).await;
        let len = range.end - range.start;
        self.submit(disk::Request::discard(range.start, len)).await
    }

    async fn write_zeroes(&self, range: Range<u64>, keep: bool, fast: bool) -> Result<(), Errno> {
        let sectors = sectors(&range);
        if fast && sectors != range {
            return Err(Errno::NotSupported);
        }
        let _turn = self.writes.turn(sectors.clone(), sectors != range).await;
        let inner = inner_sectors(&range);
        if inner.is_empty() {
            let zeros = Buffers::zeroed(to_usize(range.end - range.start));
            return self.write_in_turn(range, zeros).await;
        }
        for edge in [range.start..inner.start, inner.end..range.end] {
            if !edge.is_empty() {
                let zeros = Buffers::zeroed(to_usize(edge.end - edge.start));
                self.write_in_turn(edge, zeros).await?;
            }
        }
        let len = inner.end - inner.start;
        self.submit(disk::Request::write_zeroes(inner.start, len, !keep))
            .await
    }

    /// Reads what there is in the range into the host's cache, for as long as anybody wants it.
    async fn cache(&self, range: Range<u64>, how: &How<'_>) -> Result<(), Errno> {
        let sectors = sectors(&range);
        let mut offset = sectors.start;
        while offset < sectors.end && !how.over.get() {
            let left = sectors.end - offset;
            let extent = self.disk.extent(offset, left).await;
            let extent = extent.map_err(|error| self.errno(&error))?;
            if extent.content.is_zero() && extent.len > 0 {
                offset += extent.len.min(left);
            } else {
                let len = left.min(CACHE_STEP_BYTES as u64);
                let memory = how.pool.take(to_usize(len));
                self.submit(disk::Request::read(offset, memory)).await?;
                offset += len;
            }
            // Nobody waits for this; other requests come first.
            disk::yield_now().await;
        }
        Ok(())
    }

    /// What the range is made of, at least its start.
    async fn status(&self, request: &Request, one: bool) -> Result<Answer, Refusal> {
        let range = request.range();
        let mut descriptors: Vec<Descriptor> = Vec::new();
        let mut offset = range.start;
        for _ in 0..EXTENTS_MAX {
            let extent = self.disk.extent(offset, range.end - offset).await;
            let extent = extent.map_err(|error| failed(self.errno(&error)))?;
            let len = extent.len.min(range.end - offset);
            let stretch = Descriptor {
                len: u32::try_from(len).unwrap_or(u32::MAX).into(),
                state: states(&extent).into(),
            };
            let is_full = descriptors.len() == if one { 1 } else { DESCRIPTORS_MAX };
            match descriptors.last_mut() {
                Some(last) if last.state == stretch.state => last.len += stretch.len,
                _ if is_full => break,
                _ => descriptors.push(stretch),
            }
            offset += len;
            if len == 0 || offset == range.end {
                break;
            }
        }
        Ok(Answer::Status(descriptors))
    }
}

/// What needs no storing is a hole, as QEMU's server has it.
fn states(extent: &Extent) -> u32 {
    if extent.content.is_zero() {
        state::HOLE | state::ZERO
    } else {
        0
    }
}

impl Request {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.len)
    }
}

impl Command {
    fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Trim | Self::WriteZeroes { .. })
    }
}

/// The sectors that hold a range. An export ends with a whole sector.
fn sectors(range: &Range<u64>) -> Range<u64> {
    range.start - range.start % SECTOR_BYTES..range.end.next_multiple_of(SECTOR_BYTES)
}

/// The sectors that a range covers, if any.
fn inner_sectors(range: &Range<u64>) -> Range<u64> {
    range.start.next_multiple_of(SECTOR_BYTES)..range.end - range.end % SECTOR_BYTES
}

/// Lengths of what fits memory.
fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("at most 32 MiB and a sector")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use disk::{Executor, OpenOptions};

    use super::*;
    use crate::nbd::wire::PAYLOAD_MAX_BYTES;

    /// Much is cached at once, but neither holes nor for nobody.
    #[test]
    fn what_is_cached_is_data_that_somebody_wants() {
        const LEN: u32 = 4 * PAYLOAD_MAX_BYTES;
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(LEN.into()).unwrap();
        let data = vec![7; 2 * CACHE_STEP_BYTES];
        for offset in [0, u64::from(LEN) / 2] {
            image.as_file().write_all_at(&data, offset).unwrap();
        }
        Executor::new().unwrap().run(async {
            let disk = OpenOptions::new(image.path()).open().await.unwrap();
            let (export, pool) = (Export::new("", disk.clone()), Pool::new());
            let request = Request {
                command: Command::Cache,
                cookie: 0,
                offset: 0,
                len: LEN,
                durable: false,
            };
            assert_eq!(request.memory_bytes(), CACHE_STEP_BYTES);
            for (over, reads) in [(true, 0), (false, 4)] {
                let how = How {
                    pool: &pool,
                    find_zeros: false,
                    over: &Cell::new(over),
                };
                let answer = execute(&export, &request, None, &how).await;
                assert!(matches!(answer, Ok(Answer::Done)));
                assert_eq!(disk.statistics().reads, reads);
            }
        });
    }
}
