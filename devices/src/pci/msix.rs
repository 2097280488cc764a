//! Message signalled interrupts (PCI 3.0 section 6.8.2, MSI-X).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmm_sys_util::poll::PollContext;

use crate::{MsiMessage, MsiVector, Platform};

/// The identifier of the capability.
pub(crate) const CAPABILITY_ID: u8 = 0x11;

/// The size of a table entry: address, data, vector control.
const ENTRY_BYTES: usize = 16;
const ENTRY_CONTROL: usize = 12;
const ENTRY_MASKED: u8 = 1;

const CONTROL_ENABLE: u16 = 0x8000;
const CONTROL_MASK_ALL: u16 = 0x4000;

/// The most vectors there can be: the table size field has eleven bits.
const VECTOR_LIMIT: usize = 2048;

/// A function's MSI-X table, its pending bits, and the vectors behind them.
pub(crate) struct Msix {
    entries: Vec<[u8; ENTRY_BYTES]>,
    /// What each vector was connected to last.
    connected: Vec<Option<MsiMessage>>,
    signals: Arc<MsixSignals>,
    masked: bool,
}

/// What a device needs to signal vectors, from any thread.
pub(crate) struct MsixSignals {
    vectors: Vec<Arc<dyn MsiVector>>,
    enabled: AtomicBool,
}

impl MsixSignals {
    /// Whether the driver uses MSI-X at all.
    pub(crate) fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// How many vectors there are.
    pub(crate) fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Signals `vector`, and returns whether there is such a vector. One that is masked stays
    /// pending.
    pub(crate) fn signal(&self, vector: u16) -> bool {
        let vector = self.vectors.get(usize::from(vector));
        vector.is_some_and(|vector| vector.event().write(1).is_ok())
    }
}

impl Msix {
    /// `count` vectors of `platform`, all masked.
    pub(crate) fn new(count: usize, platform: &dyn Platform) -> io::Result<Self> {
        if count == 0 || count > VECTOR_LIMIT {
            return Err(io::Error::other("MSI-X has 1 to 2048 vectors"));
        }
        let vectors = (0..count)
            .map(|_| platform.msi_vector())
            .collect::<io::Result<_>>()?;
        let mut entry = [0; ENTRY_BYTES];
        entry[ENTRY_CONTROL] = ENTRY_MASKED;
        Ok(Self {
            entries: vec![entry; count],
            connected: vec![None; count],
            signals: Arc::new(MsixSignals {
                vectors,
                enabled: AtomicBool::new(false),
            }),
            masked: false,
        })
    }

    pub(crate) fn signals(&self) -> Arc<MsixSignals> {
        Arc::clone(&self.signals)
    }

    /// The body of the capability: message control, then where in base address register 0 the table
    /// and the pending bits lie.
    pub(crate) fn capability(&self, table: u32, pending: u32) -> ([u8; 10], [u8; 10]) {
        let size = u16::try_from(self.entries.len() - 1).unwrap_or(0);
        let mut body = [0; 10];
        body[0..2].copy_from_slice(&size.to_le_bytes());
        body[2..6].copy_from_slice(&table.to_le_bytes());
        body[6..10].copy_from_slice(&pending.to_le_bytes());
        let mut writable = [0; 10];
        writable[0..2].copy_from_slice(&(CONTROL_ENABLE | CONTROL_MASK_ALL).to_le_bytes());
        (body, writable)
    }

    /// Takes the message control register as the guest left it.
    pub(crate) fn set_control(&mut self, control: u16) {
        self.signals
            .enabled
            .store(control & CONTROL_ENABLE != 0, Ordering::Release);
        self.masked = control & CONTROL_MASK_ALL != 0;
        (0..self.entries.len()).for_each(|index| self.connect(index));
    }

    /// Reads the table. What lies behind it reads as zero.
    pub(crate) fn read_table(&self, offset: usize, data: &mut [u8]) {
        let bytes = self.entries.as_flattened();
        for (at, byte) in (offset..).zip(data) {
            *byte = bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes the table, a dword or a quadword on its natural boundary.
    pub(crate) fn write_table(&mut self, offset: usize, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len()) {
            return;
        }
        let index = offset / ENTRY_BYTES;
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        let at = offset % ENTRY_BYTES;
        entry[at..at + data.len()].copy_from_slice(data);
        // All other bits of the vector control are reserved.
        entry[ENTRY_CONTROL] &= ENTRY_MASKED;
        entry[ENTRY_CONTROL + 1..].fill(0);
        self.connect(index);
    }

    /// Reads the pending bits: which masked vectors wait to be sent.
    pub(crate) fn read_pending(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let vectors = (0..8).map(|bit| (bit, at * 8 + bit));
            *byte = vectors
                .filter(|(_, index)| self.pending(*index))
                .fold(0, |byte, (bit, _)| byte | 1 << bit);
        }
    }

    fn pending(&self, index: usize) -> bool {
        let vector = self.signals.vectors.get(index);
        vector.is_some_and(|vector| self.connected[index].is_none() && signalled(vector.as_ref()))
    }

    /// Connects a vector to its message, or disconnects it, where that changes anything: the machine
    /// does real work for it, and drivers write each entry several times.
    fn connect(&mut self, index: usize) {
        let entry = &self.entries[index];
        let masked = self.masked || entry[ENTRY_CONTROL] & ENTRY_MASKED != 0;
        let message = (self.signals.enabled() && !masked).then(|| message(entry));
        if self.connected[index] == message {
            return;
        }
        self.connected[index] = message;
        if let Err(error) = self.signals.vectors[index].connect(message) {
            tracing::debug!(vector = index, ?message, %error, "cannot route an interrupt");
        }
    }
}

impl Drop for Msix {
    fn drop(&mut self) {
        self.set_control(0);
    }
}

fn message(entry: &[u8; ENTRY_BYTES]) -> MsiMessage {
    let (mut address, mut data) = ([0; 8], [0; 4]);
    address.copy_from_slice(&entry[0..8]);
    data.copy_from_slice(&entry[8..12]);
    MsiMessage {
        address: u64::from_le_bytes(address),
        data: u32::from_le_bytes(data),
    }
}

/// Whether a disconnected vector's event is signalled, without taking the signal.
fn signalled(vector: &dyn MsiVector) -> bool {
    let poll = PollContext::new();
    let poll = poll.and_then(|poll| poll.add(vector.event(), 0_u32).map(|()| poll));
    poll.is_ok_and(|poll| {
        let events = poll.wait_timeout(Duration::ZERO);
        events.is_ok_and(|events| events.iter_readable().next().is_some())
    })
}
