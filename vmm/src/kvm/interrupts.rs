//! How interrupts reach the guest: lines to the I/O APIC's and the PIC's pins, and messages (MSI),
//! both from event file descriptors that the kernel turns into interrupts by itself.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use devices::{MsiMessage, MsiVector};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The pins of the I/O APIC; MSI vectors use interrupt numbers from here on.
const IOAPIC_PINS: u32 = 24;
/// The pins of the two cascaded PICs.
const PIC_PINS: u32 = 16;

/// The interrupt routing table of one virtual machine.
pub(crate) struct Interrupts {
    vm: Arc<VmFd>,
    /// The message of each MSI vector, by its number; `None` while it is disconnected.
    messages: Mutex<Vec<Option<MsiMessage>>>,
}

impl Interrupts {
    /// Starts with the pins only, which is how KVM starts too.
    pub(crate) fn new(vm: Arc<VmFd>) -> Arc<Self> {
        Arc::new(Self {
            vm,
            messages: Mutex::default(),
        })
    }

    /// Connects `event` to the pin `gsi`.
    pub(crate) fn connect_line(&self, event: &EventFd, gsi: u32) -> Result<()> {
        self.vm
            .register_irqfd(event, gsi)
            .with_context(|| format!("KVM_IRQFD failed for interrupt {gsi}"))
    }

    /// Makes a new vector, disconnected.
    pub(crate) fn vector(self: &Arc<Self>) -> io::Result<Arc<dyn MsiVector>> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let index = messages.len();
        messages.push(None);
        let interrupts = Arc::clone(self);
        Ok(Arc::new(Vector {
            interrupts,
            index,
            event,
            connected: Mutex::new(false),
        }))
    }

    /// Routes vector number `index` to `message` and hands the whole table to KVM.
    fn route(&self, index: usize, message: MsiMessage) -> io::Result<()> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if messages[index] == Some(message) {
            return Ok(());
        }
        messages[index] = Some(message);
        let mut entries = pin_routes();
        for (number, message) in messages.iter().enumerate() {
            entries.extend(message.map(|message| msi_route(gsi(number), message)));
        }
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| io::Error::other("more interrupt routes than KVM has"))?;
        self.vm.set_gsi_routing(&table).map_err(io::Error::from)
    }
}

/// The interrupt number of MSI vector number `index`.
fn gsi(index: usize) -> u32 {
    u32::try_from(index).map_or(u32::MAX, |index| IOAPIC_PINS.saturating_add(index))
}

/// Every pin to itself: the first sixteen go to the PICs as well as to the I/O APIC.
fn pin_routes() -> Vec<kvm_irq_routing_entry> {
    let pin = |gsi, irqchip, pin| kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    };
    let half = PIC_PINS / 2;
    let master = (0..half).map(|n| pin(n, KVM_IRQCHIP_PIC_MASTER, n));
    let slave = (half..PIC_PINS).map(|n| pin(n, KVM_IRQCHIP_PIC_SLAVE, n - half));
    let ioapic = (0..IOAPIC_PINS).map(|n| pin(n, KVM_IRQCHIP_IOAPIC, n));
    master.chain(slave).chain(ioapic).collect()
}

fn msi_route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = message.address.to_le_bytes();
    let msi = kvm_irq_routing_msi {
        address_lo: u32::from_le_bytes([b0, b1, b2, b3]),
        address_hi: u32::from_le_bytes([b4, b5, b6, b7]),
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

/// One MSI vector of a device.
struct Vector {
    interrupts: Arc<Interrupts>,
    index: usize,
    event: EventFd,
    connected: Mutex<bool>,
}

impl MsiVector for Vector {
    fn connect(&self, message: Option<MsiMessage>) -> io::Result<()> {
        let mut connected = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = message {
            self.interrupts.route(self.index, message)?;
        }
        // A signal that came while nobody listened stays in the event; KVM looks for it when the
        // event is registered, so nothing is lost over a masked spell.
        let wanted = message.is_some();
        if *connected != wanted {
            let (vm, gsi) = (&self.interrupts.vm, gsi(self.index));
            let change = if wanted {
                VmFd::register_irqfd
            } else {
                VmFd::unregister_irqfd
            };
            change(vm, &self.event, gsi).map_err(io::Error::from)?;
            *connected = wanted;
        }
        Ok(())
    }

    fn event(&self) -> &EventFd {
        &self.event
    }
}
