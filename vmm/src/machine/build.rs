//! Builds a machine: memory, interrupts, devices, kernel, vCPUs.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use boot::{EntryState, Image, PowerRegisters, layout};
use devices::virtio::{BlockHandle, Entropy, MmioTransport, TransportStatistics, VirtioDevice};
use devices::{
    AcpiPower, Bus, Device, I8042, InterruptLine, PciRoot, Platform, PowerButton, Pvpanic, Rtc,
    Serial, SerialInput,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::platform::KvmPlatform;
use super::{Config, Switch, disks};
use crate::cli::Transport;
use crate::console::Console;
use crate::control::Disks;
use crate::insight::{Board, Insight};
use crate::kvm::{Cpuid, Interrupts, boot_registers, create_vm, measure_on, park_until_startup};
use crate::memory::GuestRam;
use crate::statistics::Statistics;

/// The interrupt pins of the devices that are always there, as on a PC.
const COM1_PIN: u32 = 4;
const POWER_PIN: u32 = 9;
/// The pins left for virtio over mmio, the I/O APIC's from 10 and what else is free below.
const MMIO_PINS: [u32; 17] = [
    5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];

/// A machine that is ready to run.
pub(crate) struct Machine {
    pub(super) bus: Arc<Bus>,
    pub(super) switch: Arc<Switch>,
    pub(super) serial: Option<SerialInput>,
    pub(super) power_button: PowerButton,
    pub(super) disks: Vec<BlockHandle>,
    transports: Vec<Arc<TransportStatistics>>,
    vcpus: Vec<VcpuFd>,
    pub(super) insight: Option<Arc<Insight>>,
}

impl Machine {
    /// Opens the disks, loads the kernel and puts everything together; nothing runs yet.
    pub(crate) fn build(
        kvm: &Kvm,
        ram: &GuestRam,
        config: &Config,
        disks: &Arc<Disks>,
        hooks: &Board,
        console: Option<&Console>,
    ) -> Result<Self> {
        let vm = Arc::new(create_vm(kvm)?);
        ram.attach(&vm)?;
        let insight = hooks.prepare(kvm, &vm, ram.guest(), config.cpus)?;
        let switch = Arc::new(Switch::new()?);
        let interrupts = Interrupts::new(Arc::clone(&vm));
        let platform: Arc<dyn Platform> = Arc::new(KvmPlatform {
            vm: Arc::clone(&vm),
            interrupts: Arc::clone(&interrupts),
            switch: Arc::clone(&switch),
        });
        let mut parts = Parts {
            ram,
            config,
            platform,
            devices: Vec::new(),
            disks: Vec::new(),
            transports: Vec::new(),
            insight: insight.clone(),
        };
        let serial = console
            .map(|console| parts.add_serial(console))
            .transpose()?;
        let power_button = parts.add_board()?;
        parts.add_virtio(disks)?;
        let Parts {
            devices,
            disks,
            transports,
            ..
        } = parts;
        let (bus, aml) = assemble(devices, &interrupts)?;
        let entry = load(ram, config, &aml)?;
        // A hypervisor in the guest would take the hooks to its own guests.
        let cpuid = Cpuid::new(kvm, config.cpus, insight.is_none())?;
        let vcpus = create_vcpus(&vm, ram, config, &cpuid, &entry)?;
        Ok(Self {
            bus: Arc::new(bus),
            switch,
            serial,
            power_button,
            disks,
            transports,
            vcpus,
            insight,
        })
    }

    /// Flushes and closes the disks, all of them even if some fail, and counts what the boot did.
    pub(crate) fn close(self, statistics: &mut Statistics) -> Result<()> {
        let closed: Vec<_> = self.disks.iter().map(BlockHandle::close).collect();
        let disks = self
            .disks
            .iter()
            .map(|disk| (disk.name(), disk.statistics()));
        statistics.add(self.bus.accesses(), disks, &self.transports);
        closed
            .into_iter()
            .collect::<Result<(), _>>()
            .context("the disks were not all closed")
    }

    /// The vCPUs, to be run by their threads.
    pub(super) fn take_vcpus(&mut self) -> Vec<VcpuFd> {
        std::mem::take(&mut self.vcpus)
    }
}

/// The devices while they are gathered.
struct Parts<'a> {
    ram: &'a GuestRam,
    config: &'a Config,
    platform: Arc<dyn Platform>,
    devices: Vec<Box<dyn Device>>,
    disks: Vec<BlockHandle>,
    transports: Vec<Arc<TransportStatistics>>,
    insight: Option<Arc<Insight>>,
}

impl Parts<'_> {
    fn add_serial(&mut self, console: &Console) -> Result<SerialInput> {
        let serial = Serial::new(line(COM1_PIN)?, Box::new(console.writer()))?;
        let input = serial.input();
        self.devices.push(Box::new(serial));
        Ok(input)
    }

    /// What every machine has: keyboard controller, clock, power, panic.
    fn add_board(&mut self) -> Result<PowerButton> {
        let power = AcpiPower::new(line(POWER_PIN)?, Arc::clone(&self.platform));
        let button = power.power_button()?;
        self.devices.push(Box::new(power));
        self.devices
            .push(Box::new(I8042::new(Arc::clone(&self.platform))));
        self.devices.push(Box::new(Rtc::new()));
        self.devices
            .push(Box::new(Pvpanic::new(Arc::clone(&self.platform))));
        Ok(button)
    }

    /// The virtio devices on the transport asked for.
    fn add_virtio(&mut self, disks: &Arc<Disks>) -> Result<()> {
        let virtio = self.virtio_devices(disks)?;
        match self.config.transport {
            Transport::Pci => self.attach_pci(virtio),
            Transport::Mmio => self.attach_mmio(virtio),
        }
    }

    fn virtio_devices(&mut self, disks: &Arc<Disks>) -> Result<Vec<Box<dyn VirtioDevice>>> {
        let mut virtio: Vec<Box<dyn VirtioDevice>> = Vec::new();
        for disk in disks.list().iter().enumerate() {
            let block = disks::open(disk, disks, self.insight.as_ref(), self.config.cpus)?;
            self.disks.push(block.handle());
            virtio.push(Box::new(block));
        }
        if self.config.rng {
            virtio.push(Box::new(Entropy::new("rng0")));
        }
        Ok(virtio)
    }

    fn attach_pci(&mut self, virtio: Vec<Box<dyn VirtioDevice>>) -> Result<()> {
        let platform = Arc::clone(&self.platform);
        let mut root = PciRoot::new(layout::ECAM_BASE, layout::PCI_WINDOW, platform);
        for device in virtio {
            let statistics = root.add_virtio(device, Arc::clone(self.ram.guest()))?;
            self.transports.push(statistics);
        }
        self.devices.push(Box::new(root));
        Ok(())
    }

    fn attach_mmio(&mut self, virtio: Vec<Box<dyn VirtioDevice>>) -> Result<()> {
        let count = virtio.len();
        if count > MMIO_PINS.len() {
            bail!(
                "{count} virtio devices: --transport mmio has pins for {}",
                MMIO_PINS.len()
            );
        }
        for ((number, device), pin) in (0..).zip(virtio).zip(MMIO_PINS) {
            let base = layout::VIRTIO_MMIO_BASE + number * layout::VIRTIO_MMIO_BYTES;
            let memory = Arc::clone(self.ram.guest());
            let platform = Arc::clone(&self.platform);
            let transport = MmioTransport::new(base, line(pin)?, device, memory, platform)?;
            self.transports.push(transport.statistics());
            self.devices.push(Box::new(transport));
        }
        Ok(())
    }
}

/// An interrupt line to the pin `gsi`, to be connected when the device is put on the bus.
fn line(gsi: u32) -> Result<InterruptLine> {
    let event = EventFd::new(EFD_NONBLOCK).context("cannot make an event")?;
    Ok(InterruptLine { gsi, event })
}

/// Puts the devices on the bus, connects their interrupts and collects their ACPI nodes.
fn assemble(devices: Vec<Box<dyn Device>>, interrupts: &Interrupts) -> Result<(Bus, Vec<u8>)> {
    let mut bus = Bus::new();
    let mut aml = Vec::new();
    for device in devices {
        if let Some(line) = device.interrupt() {
            interrupts.connect_line(&line.event, line.gsi)?;
        }
        device.append_aml(&mut aml);
        bus.insert(device)?;
    }
    Ok((bus, aml))
}

/// Puts kernel, initrd, command line and tables into guest memory.
fn load(ram: &GuestRam, config: &Config, aml: &[u8]) -> Result<EntryState> {
    let image = Image {
        kernel: &config.kernel,
        initrd: config.initrd.as_deref(),
        cmdline: &config.cmdline,
        kaslr: config.kaslr,
        cache_dir: config.cache_dir.as_deref(),
    };
    let machine = boot::Machine {
        cpus: config.cpus,
        pci: config.transport == Transport::Pci,
        dsdt_devices: aml,
        power: PowerRegisters {
            sleep_control_port: AcpiPower::SLEEP_CONTROL_PORT,
            sleep_status_port: AcpiPower::SLEEP_STATUS_PORT,
            reset_port: AcpiPower::RESET_PORT,
            reset_value: AcpiPower::RESET_VALUE,
        },
    };
    Ok(boot::load(ram.guest(), &image, &machine)?)
}

/// Makes the vCPUs: the first at the kernel's entry, the others waiting to be started by it.
fn create_vcpus(
    vm: &VmFd,
    ram: &GuestRam,
    config: &Config,
    cpuid: &Cpuid,
    entry: &EntryState,
) -> Result<Vec<VcpuFd>> {
    let create = |number: u8| {
        let mut vcpu = vm
            .create_vcpu(u64::from(number))
            .context("KVM refuses to make a vCPU")?;
        vcpu.set_cpuid2(&cpuid.for_cpu(number)?)
            .context("KVM_SET_CPUID2 failed")?;
        if number == 0 {
            measure_on(&mut vcpu, ram)?.refuse_interpreted(config.force)?;
            boot_registers(&vcpu, entry)?;
        } else {
            park_until_startup(&vcpu)?;
        }
        Ok(vcpu)
    };
    (0..config.cpus).map(create).collect()
}
