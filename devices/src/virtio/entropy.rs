//! The entropy device (virtio 1.2 section 5.4): random bytes of the host for the guest.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::chain::Violation;
use super::device::{Activation, Notifier, VirtioDevice};
use super::virtqueue::Virtqueue;
use crate::Error;

/// The most bytes that one request gets; a driver that wants more asks again.
const REQUEST_BYTES_MAX: usize = 4096;

/// Plenty for the loop of the thread, and too small for the host to back it by a huge page.
const STACK_BYTES: usize = 256 << 10;

/// The one queue, `requestq`. Drivers keep a single request in it.
const QUEUE_SIZES: [u16; 1] = [64];

/// An entropy device.
///
/// It serves its queue on a thread of its own, while the driver runs it. A guest that never stops
/// asking keeps that thread busy and takes a CPU from the host, as it can with any of its vCPUs;
/// it holds up neither them nor another device.
pub struct Entropy {
    name: String,
    /// Whether a driver has broken the device. Only the first time is worth a warning, for a guest
    /// can do so as often as it likes.
    broken: Arc<AtomicBool>,
    worker: Option<Worker>,
}

struct Worker {
    stop: Arc<AtomicBool>,
    doorbell: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl Entropy {
    /// An entropy device with a name for logs and statistics, `rng0` for example.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            broken: Arc::default(),
            worker: None,
        }
    }

    fn error(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error {
        let device = self.name.clone();
        move |source| Error::Host {
            device,
            operation,
            source,
        }
    }
}

impl VirtioDevice for Entropy {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> u16 {
        u16::try_from(VIRTIO_ID_RNG).unwrap_or_default()
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// There is no configuration.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        let Activation {
            memory,
            features,
            queues,
            notifier,
        } = activation;
        let Some(active) = queues.into_iter().next() else {
            return Ok(());
        };
        let doorbell = Arc::clone(&active.doorbell);
        let queue = Virtqueue::new(active, features, Arc::clone(&memory), Arc::clone(&notifier))
            .map_err(|violation| self.error("serve its queue")(io::Error::other(violation)))?;
        let epoll = watch(&doorbell).map_err(self.error("watch its doorbell"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let server = Server {
            name: self.name.clone(),
            queue,
            memory,
            notifier,
            epoll,
            doorbell: Arc::clone(&doorbell),
            broken: Arc::clone(&self.broken),
            stop: Arc::clone(&stop),
        };
        let thread = thread::Builder::new()
            .name(self.name.clone())
            .stack_size(STACK_BYTES)
            .spawn(move || server.run())
            .map_err(self.error("start its thread"))?;
        self.worker = Some(Worker {
            stop,
            doorbell,
            thread,
        });
        Ok(())
    }

    fn reset(&mut self) {
        let Some(worker) = self.worker.take() else {
            return;
        };
        worker.stop.store(true, Ordering::Release);
        // A counter that is full wakes the thread as well.
        let _ = worker.doorbell.write(1);
        if worker.thread.join().is_err() {
            tracing::error!(device = self.name, "the thread panicked");
        }
    }
}

impl Drop for Entropy {
    fn drop(&mut self) {
        self.reset();
    }
}

fn watch(doorbell: &EventFd) -> io::Result<Epoll> {
    use std::os::fd::AsRawFd;
    let epoll = Epoll::new()?;
    let event = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, doorbell.as_raw_fd(), event)?;
    Ok(epoll)
}

/// What the thread owns.
struct Server {
    name: String,
    queue: Virtqueue,
    memory: Arc<GuestMemoryMmap>,
    notifier: Arc<dyn Notifier>,
    /// Watches the doorbell, whether or not that blocks.
    epoll: Epoll,
    doorbell: Arc<EventFd>,
    broken: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            if let Err(reason) = self.serve() {
                if self.broken.swap(true, Ordering::Relaxed) {
                    tracing::debug!(device = self.name, reason, "stopped until a reset");
                } else {
                    tracing::warn!(device = self.name, reason, "stopped until a reset");
                }
                return self.notifier.needs_reset();
            }
            self.wait();
        }
    }

    fn wait(&self) {
        // An interrupted wait ends in a look at the queue that finds nothing.
        let signalled = self.epoll.wait(-1, &mut [EpollEvent::default()]);
        if signalled.is_ok_and(|count| count > 0) {
            let _ = self.doorbell.read();
        }
    }

    /// Answers every request there is.
    fn serve(&mut self) -> Result<(), String> {
        let mut bytes = [0; REQUEST_BYTES_MAX];
        while !self.stop.load(Ordering::Acquire) {
            let Some(chain) = self
                .queue
                .pop()
                .map_err(|violation| violation.to_string())?
            else {
                break;
            };
            // A request is only what the driver wants filled (virtio 1.2 section 5.4.6.1).
            if chain.writable.is_empty() {
                return Err(Violation::NoAnswer.to_string());
            }
            let wanted = usize::try_from(chain.writable.len_bytes()).unwrap_or(usize::MAX);
            let random = &mut bytes[..wanted.min(REQUEST_BYTES_MAX)];
            getrandom::fill(random).map_err(|error| error.to_string())?;
            let written = chain.writable.fill(&self.memory, random);
            let written_bytes = u32::try_from(written).unwrap_or(u32::MAX);
            self.queue
                .push(chain.head, written_bytes)
                .map_err(|violation| violation.to_string())?;
        }
        Ok(())
    }
}
