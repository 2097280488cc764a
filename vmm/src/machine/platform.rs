//! What KVM lends the devices.

use std::io;
use std::sync::Arc;

use devices::{Doorbell, MsiVector, Platform, PowerEvent};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::Switch;
use crate::kvm::Interrupts;

/// The machine as its devices see it, made of KVM.
pub(crate) struct KvmPlatform {
    pub(crate) vm: Arc<VmFd>,
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) switch: Arc<Switch>,
}

impl Platform for KvmPlatform {
    fn msi_vector(&self) -> io::Result<Arc<dyn MsiVector>> {
        self.interrupts.vector()
    }

    fn attach_doorbell(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(doorbell.address);
        let attached = match doorbell.value {
            Some(value) => self.vm.register_ioevent(event, &address, value),
            None => self.vm.register_ioevent(event, &address, NoDatamatch),
        };
        attached.map_err(io::Error::from)
    }

    fn detach_doorbell(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(doorbell.address);
        let detached = match doorbell.value {
            Some(value) => self.vm.unregister_ioevent(event, &address, value),
            None => self.vm.unregister_ioevent(event, &address, NoDatamatch),
        };
        detached.map_err(io::Error::from)
    }

    fn power(&self, event: PowerEvent) {
        self.switch.end(event.into());
    }
}
