//! Does what a driver asks, on the disk.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::{Disk, Request};
use vm_memory::GuestMemoryMmap;

use super::memory::buffers;
use super::request::{Command, Status};
use super::statistics::Counters;
use crate::virtio::chain::Pieces;

/// The bytes of a serial number, padded with zeros (virtio 1.2 section 5.2.6.1).
pub(super) type Serial = [u8; super::SERIAL_BYTES_MAX];

/// A disk and what its driver sees of it.
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) serial: Serial,
    pub(super) disk: Rc<dyn Disk>,
    pub(super) counters: Arc<Counters>,
    /// Whether a write may be complete before it survives a power cut.
    pub(super) writeback: Arc<AtomicBool>,
    /// Whether the disk has failed a request. Only the first is worth a warning, for a guest can
    /// make as many more as it likes.
    pub(super) failed: Cell<bool>,
    /// Whether a driver has broken the device, of which only the first is worth a warning too.
    pub(super) broken: Cell<bool>,
}

/// The end of a command.
pub(super) struct Outcome {
    pub(super) status: Status,
    /// Bytes of the driver's memory that hold its answer, from the first on.
    pub(super) data_bytes: u64,
}

impl Outcome {
    pub(super) fn failed(status: Status) -> Self {
        Self {
            status,
            data_bytes: 0,
        }
    }
}

impl Backend {
    pub(super) async fn execute(&self, command: Command, memory: &Arc<GuestMemoryMmap>) -> Outcome {
        let counters = &self.counters;
        let count = |counter| Counters::add(counter, 1);
        let done = match command {
            Command::Read { offset, target } => {
                count(&counters.reads);
                return self.read(offset, &target, memory).await;
            }
            Command::GetId { target } => {
                count(&counters.get_ids);
                let data_bytes = target.fill(memory, &self.serial) as u64;
                return Outcome {
                    status: Status::Ok,
                    data_bytes,
                };
            }
            Command::Write { offset, source } => {
                count(&counters.writes);
                self.write(offset, &source, memory).await
            }
            Command::Flush => {
                count(&counters.flushes);
                self.submit(Request::flush()).await
            }
            Command::Discard(ranges) => {
                count(&counters.discards);
                self.clear(
                    ranges
                        .into_iter()
                        .map(|range| Request::discard(range.start, range.end - range.start)),
                )
                .await
            }
            Command::WriteZeroes(ranges) => {
                count(&counters.write_zeroes);
                self.write_zeroes(ranges.into_iter().map(|(range, unmap)| {
                    Request::write_zeroes(range.start, range.end - range.start, unmap)
                }))
                .await
            }
        };
        Outcome {
            status: done.err().unwrap_or(Status::Ok),
            data_bytes: 0,
        }
    }

    async fn read(&self, offset: u64, target: &Pieces, memory: &Arc<GuestMemoryMmap>) -> Outcome {
        if target.is_empty() {
            return Outcome {
                status: Status::Ok,
                data_bytes: 0,
            };
        }
        let Some(buffers) = buffers(memory, target) else {
            return Outcome::failed(Status::IoError);
        };
        match self.submit(Request::read(offset, buffers)).await {
            Ok(()) => {
                Counters::add(&self.counters.read_bytes, target.len_bytes());
                Outcome {
                    status: Status::Ok,
                    data_bytes: target.len_bytes(),
                }
            }
            Err(status) => Outcome::failed(status),
        }
    }

    async fn write(
        &self,
        offset: u64,
        source: &Pieces,
        memory: &Arc<GuestMemoryMmap>,
    ) -> Result<(), Status> {
        if !source.is_empty() {
            let buffers = buffers(memory, source).ok_or(Status::IoError)?;
            self.submit(Request::write(offset, buffers)).await?;
            Counters::add(&self.counters.written_bytes, source.len_bytes());
        }
        self.write_through().await
    }

    async fn write_zeroes(&self, requests: impl Iterator<Item = Request>) -> Result<(), Status> {
        self.clear(requests).await?;
        self.write_through().await
    }

    /// Does the requests one after the other, up to the first that fails.
    async fn clear(&self, requests: impl Iterator<Item = Request>) -> Result<(), Status> {
        for request in requests.filter(|request| request.len > 0) {
            self.submit(request).await?;
        }
        Ok(())
    }

    /// Makes what was written durable, unless the driver does so itself with flushes
    /// (virtio 1.2 section 5.2.6.2).
    async fn write_through(&self) -> Result<(), Status> {
        if self.writeback.load(Ordering::Acquire) {
            return Ok(());
        }
        self.submit(Request::flush()).await
    }

    async fn submit(&self, request: Request) -> Result<(), Status> {
        self.disk.submit(request).await.map_err(|error| {
            let device = self.name.as_str();
            if self.failed.replace(true) {
                tracing::debug!(device, %error, "a request failed");
            } else {
                tracing::warn!(device, %error, "a request failed; more are only counted");
            }
            Status::IoError
        })
    }
}
