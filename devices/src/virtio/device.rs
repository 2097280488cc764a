//! The two sides of a virtio device: what the device is, and what the transport lends it.

use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// Tells the driver that something happened, however the transport does that.
pub trait Notifier: Send + Sync {
    /// Used buffers are in `queue` (virtio 1.2 section 2.3).
    fn queue_used(&self, queue: u16);

    /// The configuration space changed.
    fn config_changed(&self);

    /// The device gives up: sets `DEVICE_NEEDS_RESET` and tells the driver
    /// (virtio 1.2 section 2.1.2).
    fn needs_reset(&self);
}

/// A queue the driver has enabled.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its number, as the driver counts them.
    pub index: u16,
    /// Its rings, checked to lie in guest memory.
    pub rings: Queue,
    /// Signalled when the driver has made buffers available.
    pub doorbell: Arc<EventFd>,
}

/// What a device needs to run once the driver has set `DRIVER_OK`.
pub struct Activation {
    /// The guest's memory, in which descriptors point.
    pub memory: Arc<GuestMemoryMmap>,
    /// The features both sides agreed on.
    pub features: u64,
    /// The queues that the driver enabled, in order.
    pub queues: Vec<ActiveQueue>,
    /// The way back to the driver.
    pub notifier: Arc<dyn Notifier>,
}

/// A virtio device, without its transport.
pub trait VirtioDevice: Send {
    /// A short name for logs and statistics, `blk0` for example.
    fn name(&self) -> &str;

    /// The device type (virtio 1.2 section 5).
    fn device_type(&self) -> u16;

    /// The feature bits offered; the transport adds its own and `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;

    /// The largest size of each queue, a power of two; their number is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the device configuration space; what lies past its end reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device configuration space; what is read-only is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Starts serving the queues. Called once after each reset; on failure the transport marks
    /// the device as needing a reset.
    fn activate(&mut self, activation: Activation) -> Result<(), crate::Error>;

    /// Stops serving: when it returns, the device touches neither queues nor guest memory, and has
    /// forgotten what was written to its configuration space. Called only after an activation, be
    /// it one that failed, or after such a write.
    ///
    /// The only call that waits on a vCPU thread, until what is in flight is done: a driver takes
    /// back its memory as soon as the device says that it is reset.
    fn reset(&mut self);
}
