//! A machine of plain memory, for tests of devices.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::{Doorbell, MsiMessage, MsiVector, Platform, PowerEvent};

/// Records what devices ask of the machine.
#[derive(Default)]
pub(crate) struct FakePlatform {
    power: Mutex<Vec<PowerEvent>>,
    doorbells: Mutex<Vec<(Doorbell, i32)>>,
    vectors: Mutex<Vec<Arc<FakeVector>>>,
}

/// A vector that remembers what it is connected to.
pub(crate) struct FakeVector {
    event: EventFd,
    connections: Mutex<Vec<Option<MsiMessage>>>,
}

impl FakePlatform {
    pub(crate) fn power_events(&self) -> Vec<PowerEvent> {
        self.power.lock().unwrap().clone()
    }

    /// The doorbells attached now, in order of their addresses.
    pub(crate) fn doorbells(&self) -> Vec<Doorbell> {
        let mut doorbells: Vec<_> = self
            .doorbells
            .lock()
            .unwrap()
            .iter()
            .map(|(doorbell, _)| *doorbell)
            .collect();
        doorbells.sort_by_key(|doorbell| (doorbell.address, doorbell.value));
        doorbells
    }

    /// The vectors in the order in which they were made.
    pub(crate) fn vectors(&self) -> Vec<Arc<FakeVector>> {
        self.vectors.lock().unwrap().clone()
    }
}

impl FakeVector {
    pub(crate) fn connection(&self) -> Option<MsiMessage> {
        self.connections.lock().unwrap().last().copied().flatten()
    }

    /// How often the vector was connected or disconnected, each of which costs the machine a call.
    pub(crate) fn changes(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// Takes the interrupts signalled so far.
    pub(crate) fn take(&self) -> u64 {
        self.event.read().unwrap_or(0)
    }
}

impl MsiVector for FakeVector {
    fn connect(&self, message: Option<MsiMessage>) -> io::Result<()> {
        self.connections.lock().unwrap().push(message);
        Ok(())
    }

    fn event(&self) -> &EventFd {
        &self.event
    }
}

impl Platform for FakePlatform {
    fn msi_vector(&self) -> io::Result<Arc<dyn MsiVector>> {
        let event = EventFd::new(libc::EFD_NONBLOCK)?;
        let vector = Arc::new(FakeVector {
            event,
            connections: Mutex::default(),
        });
        self.vectors.lock().unwrap().push(Arc::clone(&vector));
        Ok(vector)
    }

    /// As KVM does, refuses a doorbell where there is one already.
    fn attach_doorbell(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        let mut doorbells = self.doorbells.lock().unwrap();
        let clash = |other: &Doorbell| {
            other.address == doorbell.address
                && (other.value == doorbell.value || other.value.is_none())
        };
        if doorbells.iter().any(|(other, _)| clash(other)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        doorbells.push((doorbell, event.as_raw_fd()));
        Ok(())
    }

    /// As KVM does, knows a doorbell by its event too.
    fn detach_doorbell(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        let mut doorbells = self.doorbells.lock().unwrap();
        let key = (doorbell, event.as_raw_fd());
        let at = doorbells.iter().position(|attached| *attached == key);
        doorbells.swap_remove(at.ok_or(io::ErrorKind::NotFound)?);
        Ok(())
    }

    fn power(&self, event: PowerEvent) {
        self.power.lock().unwrap().push(event);
    }
}
