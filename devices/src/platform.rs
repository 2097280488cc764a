//! What the machine lends its devices. The program that owns the hypervisor implements it, so that
//! devices know no KVM; tests implement it with plain memory.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// A message signalled interrupt: the write that a device would do on a real bus
/// (PCI 3.0 section 6.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// The guest physical address written to, which names the CPU.
    pub address: u64,
    /// The value written, which names the vector.
    pub data: u32,
}

/// One MSI vector: an event that the machine turns into a message.
pub trait MsiVector: Send + Sync {
    /// Connects the event to `message`, or disconnects it (`None`, a masked vector).
    ///
    /// An event that is signalled while disconnected stays pending, and raises the interrupt when
    /// it is connected again.
    fn connect(&self, message: Option<MsiMessage>) -> io::Result<()>;

    /// The event that a device signals.
    fn event(&self) -> &EventFd;
}

/// A doorbell: which guest writes signal which event without an exit to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// The guest physical address of the register.
    pub address: u64,
    /// The 32-bit value that must be written, or any value and any width.
    pub value: Option<u32>,
}

/// Why the guest asks for the machine to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// The guest switched the machine off (ACPI S5).
    Off,
    /// The guest asked for a reset (i8042, ACPI reset register).
    Reset,
    /// The guest said that it panicked (pvpanic).
    Panic,
}

/// The machine, as its devices see it.
pub trait Platform: Send + Sync {
    /// Makes a new, disconnected MSI vector.
    fn msi_vector(&self) -> io::Result<Arc<dyn MsiVector>>;

    /// Lets guest writes to `doorbell` signal `event` directly. Where the machine cannot, the
    /// write reaches the device as any other does, and the device signals the event.
    fn attach_doorbell(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()>;

    /// Takes back [`Platform::attach_doorbell`].
    fn detach_doorbell(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()>;

    /// Tells the machine to stop; called on the vCPU thread that executes the guest's request.
    fn power(&self, event: PowerEvent);
}
