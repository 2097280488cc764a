//! Tests of the transports, as their drivers see them.

mod drivers;
mod fake_device;
mod hostile;
mod mmio;
mod negotiation;
mod pci;
