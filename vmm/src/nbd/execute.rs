//! Does what a client asks, on the disk.

use std::cell::Cell;
use std::ops::Range;

use disk::nbd::{Descriptor, Errno, state};
use disk::{Buffers, Extent};

use super::export::Export;
use super::request::{Command, Refusal, Request};
use crate::export::{Failure, HEADROOM, Pool};

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
    let bytes = &export.bytes;
    match (request.command, data) {
        (Command::Flush, _) => bytes.flush().await?,
        _ if request.len == 0 => {}
        (Command::Read, _) => return export.read(request, how).await,
        (Command::BlockStatus { one }, _) => return export.status(request, one).await,
        (Command::Cache, _) => export.cache(request.range(), how).await?,
        (Command::Write, Some(data)) => bytes.write(request.offset, data).await?,
        // A write comes with its data.
        (Command::Write, None) => return Err(Errno::Invalid.into()),
        (Command::Trim, _) => bytes.trim(request.range()).await?,
        (Command::WriteZeroes { keep }, _) => bytes.write_zeroes(request.range(), keep).await?,
    }
    if request.durable && request.command != Command::Flush && request.command.changes() {
        bytes.flush().await?;
    }
    Ok(Answer::Done)
}

impl Export {
    async fn read(&self, request: &Request, how: &How<'_>) -> Result<Answer, Refusal> {
        let memory = self.bytes.read(how.pool, request.range()).await?;
        if how.find_zeros && memory.slice(HEADROOM..memory.len()).is_zero() {
            return Ok(Answer::Zeros);
        }
        Ok(Answer::Data(memory))
    }

    /// Reads what there is in the range into the host's cache, for as long as anybody wants it.
    async fn cache(&self, range: Range<u64>, how: &How<'_>) -> Result<(), Failure> {
        let mut offset = range.start;
        while offset < range.end && !how.over.get() {
            let extent = self.bytes.extent(offset..range.end).await?;
            if extent.content.is_zero() {
                offset += extent.len;
            } else {
                let end = range.end.min(offset + CACHE_STEP_BYTES as u64);
                self.bytes.read(how.pool, offset..end).await?;
                offset = end;
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
            let extent = self.bytes.extent(offset..range.end).await?;
            let stretch = Descriptor {
                len: u32::try_from(extent.len).unwrap_or(u32::MAX).into(),
                state: states(&extent).into(),
            };
            let is_full = descriptors.len() == if one { 1 } else { DESCRIPTORS_MAX };
            match descriptors.last_mut() {
                Some(last) if last.state == stretch.state => last.len += stretch.len,
                _ if is_full => break,
                _ => descriptors.push(stretch),
            }
            offset += extent.len;
            if offset == range.end {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use disk::{Executor, OpenOptions};

    use super::*;
    use disk::nbd::PAYLOAD_MAX_BYTES;

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
