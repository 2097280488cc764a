//! The block device (virtio 1.2 section 5.2) over a [`disk::Disk`].
//!
//! Each device has its own I/O thread, on which the disk lives; so a slow disk stops no vCPU, and
//! none but its own requests. Guest memory goes to the disk as it is, without a copy.

mod config_space;
mod execute;
mod handle;
mod memory;
mod request;
mod session;
mod statistics;
mod worker;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use disk::Disk;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

pub use handle::BlockHandle;
pub use statistics::BlockStatistics;

use super::chain::Violation;
use super::device::{Activation, ActiveQueue, VirtioDevice};
use super::virtqueue::Virtqueue;
use crate::Error;
use config_space::{ConfigSpace, WRITEBACK_OFFSET};
use session::Served;
use worker::{Command, Worker};

/// The longest serial number, in bytes.
pub const SERIAL_BYTES_MAX: usize = VIRTIO_BLK_ID_BYTES as usize;

/// The features of every block device, whatever its disk.
const FEATURES: u64 = 1 << VIRTIO_BLK_F_SIZE_MAX
    | 1 << VIRTIO_BLK_F_SEG_MAX
    | 1 << VIRTIO_BLK_F_BLK_SIZE
    | 1 << VIRTIO_BLK_F_TOPOLOGY
    | 1 << VIRTIO_BLK_F_FLUSH
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX;

/// The features of a disk that can be changed.
const FEATURES_TO_WRITE: u64 =
    1 << VIRTIO_BLK_F_CONFIG_WCE | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

/// Plenty for the executor and a disk's tasks, which live on the heap, and too small for the host to
/// back it by a huge page.
const STACK_BYTES: usize = 512 << 10;

/// What a block device is to be like.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// Its name in logs and statistics, `blk0` for example.
    pub name: String,
    /// The serial number that the guest sees; at most [`SERIAL_BYTES_MAX`] bytes of it.
    pub serial: String,
    /// How many request queues it has, at least 1; best one a vCPU.
    pub queues: u16,
    /// The largest size of each queue, a power of two.
    pub queue_size: u16,
}

/// A block device whose I/O thread runs.
pub struct Block {
    handle: BlockHandle,
    queue_sizes: Vec<u16>,
    features: u64,
    config: ConfigSpace,
    /// Whether a write may be complete before it survives a power cut.
    writeback: Arc<AtomicBool>,
    /// Whether the driver may choose that. Until it starts the device, it is taken to negotiate
    /// what it needs.
    writeback_settable: bool,
    /// Whether the driver has chosen, since the last reset.
    writeback_chosen: bool,
}

impl Block {
    /// Starts the I/O thread, which opens the disk by `open` on its executor. Returns when the
    /// disk is open, or with the reason why it is not.
    pub fn start<F>(
        config: BlockConfig,
        open: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self, Error>
    where
        F: Future<Output = Result<Rc<dyn Disk>, disk::Error>>,
    {
        let BlockConfig {
            name,
            serial,
            queues,
            queue_size,
        } = config;
        let host = |operation| {
            let device = name.clone();
            move |source| Error::Host {
                device,
                operation,
                source,
            }
        };
        let wakeup = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let wakeup = Arc::new(wakeup.map_err(host("make an event"))?);
        let (sender, commands) = channel();
        let (counters, writeback) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        let worker = Worker {
            name: name.clone(),
            serial: padded(&serial),
            counters: Arc::clone(&counters),
            writeback: Arc::clone(&writeback),
            commands,
            wakeup: Arc::clone(&wakeup),
        };
        let (opened, properties) = sync_channel(1);
        let thread = thread::Builder::new()
            .name(name.clone())
            .stack_size(STACK_BYTES)
            .spawn(move || worker.run(open, &opened))
            .map_err(host("start the I/O thread"))?;
        let properties = properties.recv().map_err(|_| handle::gone(&name))??;
        let writable = if properties.read_only {
            1 << VIRTIO_BLK_F_RO
        } else {
            FEATURES_TO_WRITE
        };
        Ok(Self {
            handle: BlockHandle::new(name, counters, sender, wakeup, thread),
            queue_sizes: vec![queue_size; queues.into()],
            features: FEATURES | writable | u64::from(queues > 1) << VIRTIO_BLK_F_MQ,
            config: ConfigSpace::new(&properties, queues, queue_size),
            writeback,
            writeback_settable: !properties.read_only,
            writeback_chosen: false,
        })
    }

    /// The way to close the disk and to read the statistics once a transport has the device.
    pub fn handle(&self) -> BlockHandle {
        self.handle.clone()
    }
}

/// The serial number as the driver gets it.
fn padded(serial: &str) -> execute::Serial {
    let mut padded = execute::Serial::default();
    for (to, from) in padded.iter_mut().zip(serial.bytes()) {
        *to = from;
    }
    padded
}

impl VirtioDevice for Block {
    fn name(&self) -> &str {
        self.handle.name()
    }

    fn device_type(&self) -> u16 {
        u16::try_from(VIRTIO_ID_BLOCK).unwrap_or_default()
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let writeback = self.writeback.load(Ordering::Acquire).into();
        ConfigSpace {
            writeback,
            ..self.config
        }
        .read(offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // A driver sets the cache mode with a write of just this byte.
        if let (WRITEBACK_OFFSET, true, &[mode]) = (offset, self.writeback_settable, data) {
            self.writeback.store(mode != 0, Ordering::Release);
            self.writeback_chosen = true;
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        let Activation {
            memory,
            features,
            queues,
            notifier,
        } = activation;
        let has = |feature: u32| features & (1 << feature) != 0;
        self.writeback_settable &= has(VIRTIO_BLK_F_CONFIG_WCE);
        // A driver that neither flushes nor chose relies on every write being durable (virtio 1.2
        // sections 5.2.5.2 and 5.2.6.2).
        if !(self.writeback_settable && self.writeback_chosen) {
            self.writeback
                .store(has(VIRTIO_BLK_F_FLUSH), Ordering::Release);
        }
        let serve = |queue: ActiveQueue| {
            let doorbell = Arc::clone(&queue.doorbell);
            let (memory, notifier) = (Arc::clone(&memory), Arc::clone(&notifier));
            let queue = Virtqueue::new(queue, features, memory, notifier)?;
            Ok(Served { queue, doorbell })
        };
        let queues = queues.into_iter().map(serve).collect::<Result<_, _>>();
        let queues = queues.map_err(|violation: Violation| Error::Host {
            device: self.name().to_owned(),
            operation: "serve its queues",
            source: io::Error::other(violation),
        })?;
        self.handle.send(Command::Activate {
            queues,
            features,
            notifier,
        })
    }

    fn reset(&mut self) {
        self.handle.reset();
        self.writeback.store(true, Ordering::Release);
        self.writeback_settable = self.features & (1 << VIRTIO_BLK_F_CONFIG_WCE) != 0;
        self.writeback_chosen = false;
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Err(error) = self.handle.close() {
            tracing::error!(device = self.name(), %error, "the disk may not have been closed");
        }
    }
}
