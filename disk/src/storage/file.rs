//! Storage in a regular file or on a block device.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::future::Future;
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::lock::ImageLock;
use super::{Geometry, Storage, StorageExtent};
use crate::reactor::{AllocateMode, Operation, submit};
use crate::{Buffers, Error};

mod ahead;
mod barrier;
mod direct;
mod open;

use ahead::Ahead;
use barrier::Barrier;
pub(crate) use direct::direct_alignment;
use direct::{Direct, Exclusive};
pub use open::FileOptions;

/// The most that one operation transfers: aligned, and below the kernel's own limit.
const TRANSFER_MAX: usize = 1 << 30;
/// The memory of zeros written where the host cannot zero a range itself.
const ZEROS_MAX: usize = 1 << 20;

/// A file, locked against others as QEMU does.
pub struct FileStorage {
    file: Arc<File>,
    path: PathBuf,
    lock: ImageLock,
    geometry: Geometry,
    is_block_device: bool,
    /// Present if the host's page cache is left out.
    direct: Option<Direct>,
    barrier: Barrier,
    ahead: Ahead,
    size_bytes: Cell<u64>,
    /// Whether the host has refused to, so that we need not ask again.
    cannot_punch_holes: Cell<bool>,
    cannot_zero_ranges: Cell<bool>,
    cannot_discard: Cell<bool>,
    /// Zeros to write, made when first needed and shared by all that write them: a guest may have
    /// them written by many requests at once.
    zeros: OnceCell<Buffers>,
}

impl FileStorage {
    fn error(&self, operation: &'static str, offset: u64, len: u64) -> impl Fn(io::Error) -> Error {
        move |source| Error::Range {
            path: self.path.clone(),
            operation,
            offset,
            len,
            source,
        }
    }

    /// Where somebody has made the file shorter than it was, there is no hole: reads fail, and find
    /// no zeros.
    fn without_lost(&self, offset: u64, found: StorageExtent) -> Result<StorageExtent, Error> {
        let known = self.size_bytes.get();
        if found.data || offset >= known {
            return Ok(found);
        }
        let stat = self.file.metadata();
        let end = stat
            .map_err(Error::io(&self.path, "find the size of"))?
            .len();
        let lost = StorageExtent {
            data: true,
            ..found
        };
        Ok(match end {
            end if end >= known => found,
            end if end > offset => found.until(end - offset),
            _ => lost.until(known - offset),
        })
    }

    /// Refuses what no file can hold. The largest offset of all means something else to `io_uring`.
    fn check_range(&self, operation: &'static str, offset: u64, len: u64) -> Result<(), Error> {
        match offset.checked_add(len).map(i64::try_from) {
            Some(Ok(_)) => Ok(()),
            _ => Err(self.error(operation, offset, len)(
                io::ErrorKind::FileTooLarge.into(),
            )),
        }
    }

    /// Whether the file may have this size: direct I/O cannot reach into a part of a block.
    fn check_alignment(&self, size_bytes: u64) -> Result<(), Error> {
        match &self.direct {
            Some(direct) if !size_bytes.is_multiple_of(direct.offset) => {
                let unit = direct.offset;
                let reason = format!("not a multiple of {unit}, which direct I/O needs here");
                Err(Error::Size {
                    path: self.path.clone(),
                    size_bytes,
                    reason,
                })
            }
            _ => Ok(()),
        }
    }

    /// Reads with memory and offset as they are.
    async fn read_plain(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let error = self.error("read", offset, buffers.len() as u64);
        let end_of_file = io::ErrorKind::UnexpectedEof;
        let cached = self.direct.is_none();
        let start = |offset, buffers| {
            submit(Operation::Read {
                file: Arc::clone(&self.file),
                offset,
                buffers,
                cached,
            })
        };
        transfer(offset, buffers, end_of_file, start)
            .await
            .map_err(error)
    }

    /// Writes with memory and offset as they are.
    async fn write_plain(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let cached = self.direct.is_none() && !self.is_block_device;
        self.write_to(&self.file, cached, offset, buffers).await
    }

    /// Writes by one of our descriptors of the file.
    async fn write_to(
        &self,
        file: &Arc<File>,
        cached: bool,
        offset: u64,
        buffers: &Buffers,
    ) -> Result<(), Error> {
        let error = self.error("write", offset, buffers.len() as u64);
        let nothing_written = io::ErrorKind::WriteZero;
        let start = |offset, buffers| {
            submit(Operation::Write {
                file: Arc::clone(file),
                offset,
                buffers,
                cached,
            })
        };
        transfer(offset, buffers, nothing_written, start)
            .await
            .map_err(error)?;
        let end = offset + buffers.len() as u64;
        self.size_bytes.set(self.size_bytes.get().max(end));
        Ok(())
    }

    /// Writes to a range that nobody else changes.
    async fn write_exclusively(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        match &self.direct {
            Some(direct) if !direct.takes(offset, buffers) => {
                self.write_bounced(direct, offset, buffers).await
            }
            _ => self.write_plain(offset, buffers).await,
        }
    }

    /// Keeps others from changing a range while we do, where that matters.
    async fn exclusive(&self, offset: u64, len: u64) -> Option<Exclusive<'_>> {
        match &self.direct {
            Some(direct) => Some(direct.exclusive(offset, len).await),
            None => None,
        }
    }

    /// Has a range zeroed or discarded by the host; false if it cannot.
    async fn ask_host(
        &self,
        cannot: &Cell<bool>,
        operation: impl Fn(Arc<File>) -> Operation,
    ) -> io::Result<bool> {
        if cannot.get() {
            return Ok(false);
        }
        match retry(|| submit(operation(Arc::clone(&self.file)))).await {
            Ok(_) => Ok(true),
            Err(error) if is_unsupported(&error) => {
                cannot.set(true);
                Ok(false)
            }
            // Not this range, one that is not a block device's whole blocks for example.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn allocate(&self, offset: u64, len: u64, mode: AllocateMode) -> io::Result<bool> {
        let cannot = match mode {
            AllocateMode::PunchHole => &self.cannot_punch_holes,
            AllocateMode::ZeroRange => &self.cannot_zero_ranges,
        };
        self.ask_host(cannot, |file| Operation::Allocate {
            file,
            offset,
            len,
            mode,
        })
        .await
    }

    async fn write_zeros(&self, offset: u64, len: u64) -> Result<(), Error> {
        let mut done = 0;
        let zeros = self.zeros.get_or_init(|| Buffers::zeroed(ZEROS_MAX));
        while done < len {
            let piece = usize::try_from(len - done)
                .unwrap_or(usize::MAX)
                .min(zeros.len());
            self.write_exclusively(offset + done, &zeros.slice(0..piece))
                .await?;
            done += piece as u64;
        }
        Ok(())
    }
}

impl Storage for FileStorage {
    fn path(&self) -> &Path {
        &self.path
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn nonce(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the host has random numbers");
        bytes
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes.get()
    }

    async fn read_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        self.check_range("read", offset, buffers.len() as u64)?;
        match &self.direct {
            Some(direct) if !direct.takes(offset, &buffers) => {
                self.read_bounced(direct, offset, &buffers).await
            }
            _ => self.read_plain(offset, &buffers).await,
        }
    }

    async fn write_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        self.check_range("write", offset, buffers.len() as u64)?;
        let _exclusive = self.exclusive(offset, buffers.len() as u64).await;
        self.write_exclusively(offset, &buffers).await
    }

    async fn sync(&self) -> Result<(), Error> {
        retry(|| {
            submit(Operation::Sync {
                file: Arc::clone(&self.file),
            })
        })
        .await
        .map(drop)
        .map_err(Error::io(&self.path, "flush"))
    }

    fn has_barrier(&self) -> bool {
        self.barrier.number(&self.path).is_ok()
    }

    async fn barrier(&self) -> Result<(), Error> {
        let number = self.barrier.number(&self.path)?;
        retry(|| {
            submit(Operation::Barrier {
                file: Arc::clone(&self.file),
                number,
            })
        })
        .await
        .map(drop)
        .map_err(Error::io(&self.path, "keep the order of writes to"))
    }

    fn has_zero_ahead(&self) -> bool {
        self.ahead.helps()
    }

    async fn zero_ahead(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.check_range("write zeros to", offset, len)?;
        let file = self.ahead.file(&self.file);
        let file = file.map_err(Error::io(&self.path, "do direct I/O on"))?;
        let _exclusive = self.exclusive(offset, len).await;
        let zeros = self.zeros.get_or_init(|| Buffers::zeroed(ZEROS_MAX));
        let mut done = 0;
        while done < len {
            let left = usize::try_from(len - done).unwrap_or(usize::MAX);
            let piece = zeros.slice(0..left.min(zeros.len()));
            self.write_to(&file, false, offset + done, &piece).await?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    fn spare_bytes(&self) -> u64 {
        ahead::spare_bytes(&self.file)
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<bool, Error> {
        self.check_range("discard", offset, len)?;
        let error = self.error("discard", offset, len);
        let _exclusive = self.exclusive(offset, len).await;
        let asked = if self.is_block_device {
            let block = u64::from(self.geometry.block_size_bytes);
            let start = offset.next_multiple_of(block);
            let len = (offset + len).saturating_sub(start) / block * block;
            if len == 0 {
                return Ok(false);
            }
            let offset = start;
            let discard = |file| Operation::Discard { file, offset, len };
            // What is read afterwards depends on the device.
            let asked = self.ask_host(&self.cannot_discard, discard).await;
            asked.map(|_| false)
        } else {
            self.allocate(offset, len, AllocateMode::PunchHole).await
        };
        asked.map_err(error)
    }

    async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.check_range("write zeros to", offset, len)?;
        let error = self.error("write zeros to", offset, len);
        let _exclusive = self.exclusive(offset, len).await;
        let mode = if unmap {
            AllocateMode::PunchHole
        } else {
            AllocateMode::ZeroRange
        };
        let mut done = self.allocate(offset, len, mode).await.map_err(&error)?;
        if !done && unmap {
            done = self
                .allocate(offset, len, AllocateMode::ZeroRange)
                .await
                .map_err(&error)?;
        }
        if done {
            Ok(())
        } else {
            self.write_zeros(offset, len).await
        }
    }

    async fn extent(&self, offset: u64, len: u64) -> Result<StorageExtent, Error> {
        if self.is_block_device {
            let left = self.size_bytes.get().saturating_sub(offset);
            let data = left > 0;
            return Ok(StorageExtent { len, data }.until(if data { left } else { len }));
        }
        let found = Arc::new(OnceLock::new());
        submit(Operation::FindExtent {
            file: Arc::clone(&self.file),
            offset,
            len,
            found: Arc::clone(&found),
        })
        .await
        .map_err(self.error("find the holes of", offset, len))?;
        let found = *found.get().expect("a success finds one");
        self.without_lost(offset, found)
    }

    fn can_resize(&self) -> bool {
        !self.is_block_device
    }

    fn refresh_size(&self) -> Result<(), Error> {
        if self.is_block_device {
            let end = (&*self.file).seek(SeekFrom::End(0));
            let end = end.map_err(Error::io(&self.path, "find the size of"))?;
            self.size_bytes.set(self.size_bytes.get().max(end));
        }
        Ok(())
    }

    async fn set_len(&self, size_bytes: u64) -> Result<(), Error> {
        self.check_alignment(size_bytes)?;
        submit(Operation::SetLen {
            file: Arc::clone(&self.file),
            len: size_bytes,
        })
        .await
        .map_err(Error::io(&self.path, "resize"))?;
        self.size_bytes.set(size_bytes);
        Ok(())
    }

    fn close(&self) {
        self.lock.release();
    }
}

/// Goes on until everything is transferred; `stuck` is the error if nothing is any more.
async fn transfer<F>(
    offset: u64,
    buffers: &Buffers,
    stuck: io::ErrorKind,
    start: impl Fn(u64, Buffers) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<usize>>,
{
    let mut done = 0;
    while done < buffers.len() {
        let end = buffers.len().min(done + TRANSFER_MAX);
        let offset = offset + done as u64;
        match retry(|| start(offset, buffers.slice(done..end).exact())).await? {
            0 => return Err(stuck.into()),
            count => done += count,
        }
    }
    Ok(())
}

/// Starts it again while the host only says that it was interrupted.
async fn retry<F>(mut start: impl FnMut() -> F) -> io::Result<usize>
where
    F: Future<Output = io::Result<usize>>,
{
    loop {
        match start().await {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
            result => return result,
        }
    }
}

/// Whether the host cannot do such a thing to this file, with any range.
fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [libc::EOPNOTSUPP, libc::ENOSYS, libc::ENOTTY];
    error
        .raw_os_error()
        .is_some_and(|errno| unsupported.contains(&errno))
}

#[cfg(test)]
#[expect(unsafe_code, reason = "makes scattered buffers")]
mod tests;
