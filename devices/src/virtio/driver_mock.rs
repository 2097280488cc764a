//! The driver side of virtqueues, for tests: guest memory, rings, chains good and bad, doorbells,
//! and a notifier that remembers.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::{Activation, ActiveQueue, Notifier};

/// Another descriptor follows (`VIRTQ_DESC_F_NEXT`, virtio 1.2 section 2.7.5).
pub(crate) const NEXT: u16 = 1;
/// The device writes (`VIRTQ_DESC_F_WRITE`).
pub(crate) const WRITE: u16 = 2;
/// Descriptors are there (`VIRTQ_DESC_F_INDIRECT`).
pub(crate) const INDIRECT: u16 = 4;

/// How long a device may take before a test fails. Nothing waits for it when all is well.
const DEADLINE: Duration = Duration::from_secs(30);

/// Memory ends here, with a hole in it at [`HOLE`].
pub(crate) const MEMORY_END: u64 = 16 << 20;
/// Addresses without memory.
pub(crate) const HOLE: std::ops::Range<u64> = (8 << 20)..(9 << 20);
/// Where two regions meet.
pub(crate) const SEAM: u64 = 4 << 20;

/// A part of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) writable: bool,
}

/// For the device to read.
pub(crate) fn readable(address: u64, len: usize) -> Part {
    Part {
        address,
        len: u32::try_from(len).unwrap(),
        writable: false,
    }
}

/// For the device to write.
pub(crate) fn writable(address: u64, len: usize) -> Part {
    Part {
        writable: true,
        ..readable(address, len)
    }
}

/// An entry of the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) head: u16,
    pub(crate) len: u32,
}

/// Counts what the device says.
#[derive(Default)]
pub(crate) struct MockNotifier {
    heard: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Default)]
struct Heard {
    interrupts: Vec<u64>,
    needs_reset: u64,
}

impl MockNotifier {
    /// How often a queue interrupted.
    pub(crate) fn interrupts(&self, queue: u16) -> u64 {
        self.heard
            .lock()
            .unwrap()
            .interrupts
            .get(usize::from(queue))
            .copied()
            .unwrap_or(0)
    }

    /// How often the device asked for a reset.
    pub(crate) fn needs_reset(&self) -> u64 {
        self.heard.lock().unwrap().needs_reset
    }

    /// Waits until `ready`, which is asked again after each word of the device; it gets how often
    /// the device has asked for a reset.
    pub(crate) fn wait<T>(&self, mut ready: impl FnMut(u64) -> Option<T>) -> T {
        let mut heard = self.heard.lock().unwrap();
        let mut in_time = true;
        loop {
            if let Some(result) = ready(heard.needs_reset) {
                return result;
            }
            assert!(in_time, "the device said nothing");
            let waited = self.changed.wait_timeout(heard, DEADLINE).unwrap();
            (heard, in_time) = (waited.0, !waited.1.timed_out());
        }
    }

    /// Waits until the device asks for a reset.
    pub(crate) fn wait_needs_reset(&self) {
        self.wait(|needs_reset| (needs_reset > 0).then_some(()));
    }
}

impl Notifier for MockNotifier {
    fn queue_used(&self, queue: u16) {
        let mut heard = self.heard.lock().unwrap();
        let queue = usize::from(queue);
        if heard.interrupts.len() <= queue {
            heard.interrupts.resize(queue + 1, 0);
        }
        heard.interrupts[queue] += 1;
        self.changed.notify_all();
    }

    fn config_changed(&self) {}

    fn needs_reset(&self) {
        self.heard.lock().unwrap().needs_reset += 1;
        self.changed.notify_all();
    }
}

/// A driver with its memory and queues.
pub(crate) struct MockDriver {
    pub(crate) memory: Arc<GuestMemoryMmap>,
    pub(crate) notifier: Arc<MockNotifier>,
    pub(crate) queues: Vec<MockQueue>,
    /// Memory from here on is unused.
    free: u64,
}

impl MockDriver {
    /// A driver with queues of these sizes.
    pub(crate) fn new(queue_sizes: &[u16]) -> Self {
        let regions = [
            (GuestAddress(0), 4 << 20),
            (GuestAddress(SEAM), 4 << 20),
            (
                GuestAddress(HOLE.end),
                usize::try_from(MEMORY_END - HOLE.end).unwrap(),
            ),
        ];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&regions).unwrap());
        let notifier = Arc::default();
        let mut driver = Self {
            memory,
            notifier,
            queues: Vec::new(),
            free: 0x1000,
        };
        for (index, size) in queue_sizes.iter().enumerate() {
            let queue = MockQueue::new(&mut driver, u16::try_from(index).unwrap(), *size);
            driver.queues.push(queue);
        }
        driver
    }

    /// Memory that nobody has yet, at a multiple of 4096.
    pub(crate) fn allocate(&mut self, len: usize) -> u64 {
        let address = self.free;
        self.free = (self.free + len as u64).next_multiple_of(0x1000);
        assert!(self.free <= HOLE.start, "the mock driver is out of memory");
        address
    }

    /// Memory that holds `bytes`.
    pub(crate) fn place(&mut self, bytes: &[u8]) -> u64 {
        let address = self.allocate(bytes.len());
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
        address
    }

    pub(crate) fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// What a transport hands to the device when the driver is ready, with all rings made anew.
    pub(crate) fn activation(&mut self, features: u64) -> Activation {
        let queues = self.queues.iter_mut().map(MockQueue::activate).collect();
        Activation {
            memory: Arc::clone(&self.memory),
            features,
            queues,
            notifier: Arc::clone(&self.notifier) as Arc<dyn Notifier>,
        }
    }

    /// Adds a chain to a queue and rings its doorbell.
    pub(crate) fn send(&mut self, queue: usize, parts: &[Part]) -> u16 {
        let head = self.queues[queue].add(parts);
        self.queues[queue].kick();
        head
    }

    /// Waits for the next used entry of a queue.
    pub(crate) fn wait_used(&mut self, queue: usize) -> Used {
        let queue = &mut self.queues[queue];
        self.notifier.wait(|_| queue.take_used())
    }
}

/// One queue of the driver, with its rings in guest memory (virtio 1.2 section 2.7).
pub(crate) struct MockQueue {
    memory: Arc<GuestMemoryMmap>,
    index: u16,
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) doorbell: Arc<EventFd>,
    /// The next descriptor to use. They are used round and round: tests keep few in flight.
    next_descriptor: u16,
    next_available: u16,
    next_used: u16,
}

impl MockQueue {
    fn new(driver: &mut MockDriver, index: u16, size: u16) -> Self {
        let count = usize::from(size);
        Self {
            memory: Arc::clone(&driver.memory),
            index,
            size,
            descriptors: driver.allocate(16 * count),
            available: driver.allocate(6 + 2 * count),
            used: driver.allocate(6 + 8 * count),
            doorbell: Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()),
            next_descriptor: 0,
            next_available: 0,
            next_used: 0,
        }
    }

    fn activate(&mut self) -> ActiveQueue {
        (self.next_descriptor, self.next_available, self.next_used) = (0, 0, 0);
        let count = usize::from(self.size);
        self.memory
            .write_slice(&vec![0; 6 + 2 * count], GuestAddress(self.available))
            .unwrap();
        self.memory
            .write_slice(&vec![0; 6 + 8 * count], GuestAddress(self.used))
            .unwrap();
        let mut rings = Queue::new(self.size).unwrap();
        rings
            .try_set_desc_table_address(GuestAddress(self.descriptors))
            .unwrap();
        rings
            .try_set_avail_ring_address(GuestAddress(self.available))
            .unwrap();
        rings
            .try_set_used_ring_address(GuestAddress(self.used))
            .unwrap();
        rings.set_ready(true);
        ActiveQueue {
            index: self.index,
            rings,
            doorbell: Arc::clone(&self.doorbell),
        }
    }

    /// Writes an entry of the descriptor table, whatever it is.
    pub(crate) fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        let at = GuestAddress(self.descriptors + 16 * u64::from(index));
        self.memory.write_obj(descriptor, at).unwrap();
    }

    /// Makes a chain available.
    pub(crate) fn add(&mut self, parts: &[Part]) -> u16 {
        let head = self.next_descriptor;
        for (at, part) in parts.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % self.size;
            let next = if at + 1 < parts.len() { NEXT } else { 0 };
            let flags = next | if part.writable { WRITE } else { 0 };
            let descriptor = Descriptor::new(part.address, part.len, flags, self.next_descriptor);
            self.set_descriptor(index, descriptor);
        }
        self.offer(head);
        head
    }

    /// Makes a chain available whose descriptors are in a table at `table`.
    pub(crate) fn add_indirect(&mut self, table: u64, parts: &[Part]) -> u16 {
        for (at, part) in parts.iter().enumerate() {
            let next = if at + 1 < parts.len() { NEXT } else { 0 };
            let flags = next | if part.writable { WRITE } else { 0 };
            let following = u16::try_from(at + 1).unwrap();
            let descriptor = Descriptor::new(part.address, part.len, flags, following);
            self.memory
                .write_obj(descriptor, GuestAddress(table + 16 * at as u64))
                .unwrap();
        }
        let len = u32::try_from(16 * parts.len()).unwrap();
        let head = self.next_descriptor;
        self.next_descriptor = (head + 1) % self.size;
        self.set_descriptor(head, Descriptor::new(table, len, INDIRECT, 0));
        self.offer(head);
        head
    }

    /// Makes the chain that starts at `head` available, whatever is there.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = 4 + 2 * u64::from(self.next_available % self.size);
        self.memory
            .write_obj(head.to_le(), GuestAddress(self.available + slot))
            .unwrap();
        self.set_available_index(self.next_available.wrapping_add(1));
    }

    /// Says how many chains have been made available, in all.
    pub(crate) fn set_available_index(&mut self, index: u16) {
        self.next_available = index;
        self.memory
            .store(
                index.to_le(),
                GuestAddress(self.available + 2),
                Ordering::Release,
            )
            .unwrap();
    }

    /// Asks for no interrupts, or for interrupts again, without `EVENT_IDX`.
    pub(crate) fn set_no_interrupt(&self, on: bool) {
        self.memory
            .write_obj(u16::from(on).to_le(), GuestAddress(self.available))
            .unwrap();
    }

    /// Asks for an interrupt once the used index passes `index`, with `EVENT_IDX`.
    pub(crate) fn set_used_event(&self, index: u16) {
        let at = self.available + 4 + 2 * u64::from(self.size);
        self.memory
            .write_obj(index.to_le(), GuestAddress(at))
            .unwrap();
        fence(Ordering::SeqCst);
    }

    /// Which chain shall ring the doorbell, as the device asks for with `EVENT_IDX`.
    pub(crate) fn available_event(&self) -> u16 {
        let at = self.used + 4 + 8 * u64::from(self.size);
        u16::from_le(self.memory.read_obj(GuestAddress(at)).unwrap())
    }

    /// Whether the device asked for no doorbells, without `EVENT_IDX`.
    pub(crate) fn no_notify(&self) -> bool {
        let flags: u16 = self.memory.read_obj(GuestAddress(self.used)).unwrap();
        u16::from_le(flags) & 1 != 0
    }

    /// Rings the doorbell.
    pub(crate) fn kick(&self) {
        self.doorbell.write(1).unwrap();
    }

    /// How many chains the device has used, in all.
    pub(crate) fn used_index(&self) -> u16 {
        let at = GuestAddress(self.used + 2);
        u16::from_le(self.memory.load(at, Ordering::Acquire).unwrap())
    }

    /// The next used entry, if there is one.
    pub(crate) fn take_used(&mut self) -> Option<Used> {
        if self.used_index() == self.next_used {
            return None;
        }
        let at = GuestAddress(self.used + 4 + 8 * u64::from(self.next_used % self.size));
        self.next_used = self.next_used.wrapping_add(1);
        let entry: [u32; 2] = self.memory.read_obj(at).unwrap();
        let [head, len] = entry.map(u32::from_le);
        Some(Used {
            head: u16::try_from(head).unwrap(),
            len,
        })
    }
}
