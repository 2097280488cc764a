//! Hooks on the guest's system calls, on a stock KVM and without a change to the guest.
//!
//! ```text
//!   a process: SYSCALL ──> stub (hidden memory) ──not of interest──> the kernel's entry
//!                           └──OUT──> this program ──(an insight-call, or the call itself)──┘
//! ```
//! The guest's write of LSTAR, the register that says where SYSCALL goes, comes to this program by
//! KVM's MSR filter. From then on it reads there what it wrote, while the processor has the address
//! of a stub ([`stub`]) in memory that the guest does not know of ([`window`]), mapped where all its
//! processes share page tables ([`mapping`]). What Sky did with a KVM of its own (Arulraj et al., VEE
//! 2017) is done here from outside.

mod board;
mod call;
mod classifier;
mod content;
mod copies;
mod file;
mod file_systems;
mod fingerprints;
mod glob;
mod hint;
mod hook;
mod labels;
mod located;
mod log;
mod mapping;
mod named;
mod observer;
mod options;
mod paging;
mod partial_blocks;
mod pending;
mod process;
mod question;
mod report;
mod scratch;
mod stub;
mod uniqueness;
mod window;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use disk::graybox::VolumeName;
use disk::{Buffers, Class, DedupHint};
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::{
    Cap, Kvm, MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd,
};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::kvm::physical_address_bits;
use classifier::pages;
use fingerprints::{FileId, Fingerprinter, Mark};
use located::{Located, WaitedFor};
use log::Log;
use mapping::Mapping;
use observer::{Observer, Scene};
use paging::{Memory, Root};
use window::Window;

pub(crate) use board::Board;
pub(crate) use classifier::DiskInsight;
pub(crate) use hook::Hook;
use hook::LSTAR;
pub(crate) use observer::InsightCounts;
pub(crate) use options::Options;
pub(crate) use report::{DiskRow, Summary, plot, table};
pub(crate) use stub::PORT;

/// The features of KVM that hooks stand on, with the names a user can look up.
const REQUIRED: [(Cap, &str); 4] = [
    (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR"),
    (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER"),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
];

/// What is known of a machine's system calls, shared by its vCPUs.
pub(crate) struct Insight {
    memory: Arc<GuestMemoryMmap>,
    window: Window,
    mapping: Mutex<Option<Mapping>>,
    /// Whether stubs shall stand before the entry.
    wanted: AtomicBool,
    /// vCPUs that have an entry for system calls, and those with a stub before it.
    started: AtomicUsize,
    armed: AtomicUsize,
    /// Tells the main thread that vCPUs are to be kicked until they have settled.
    unsettled: EventFd,
    /// Whether the guest's page tables have five levels.
    five_levels: AtomicBool,
    fingerprinter: Fingerprinter,
    begun: Instant,
    observer: Mutex<Observer>,
}

impl Insight {
    /// Prepares `vm`, before it has vCPUs.
    fn new(
        kvm: &Kvm,
        vm: &VmFd,
        memory: Arc<GuestMemoryMmap>,
        cpus: u8,
        options: &Options,
        log: Option<Arc<Mutex<Log>>>,
        looks_for_alike: bool,
    ) -> Result<Self> {
        let lacks = |(cap, _): &&(Cap, &str)| !kvm.check_extension(*cap);
        let missing: Vec<_> = REQUIRED
            .iter()
            .filter(lacks)
            .map(|(_, name)| *name)
            .collect();
        if !missing.is_empty() {
            bail!("--insight: this kernel's KVM lacks {}", missing.join(", "));
        }
        filter_lstar(vm)?;
        let window = Window::new(vm, physical_address_bits(kvm)?, cpus)?;
        let nonce = getrandom::u64().context("the host has no random numbers")?;
        // The guest sees the nonce.
        let seed = getrandom::u64().context("the host has no random numbers")?;
        let fingerprinter = Fingerprinter::new(seed);
        let observer = Observer::new(options, log, looks_for_alike, nonce, fingerprinter.clone());
        Ok(Self {
            memory,
            window,
            mapping: Mutex::new(None),
            wanted: AtomicBool::new(false),
            started: AtomicUsize::new(0),
            armed: AtomicUsize::new(0),
            unsettled: EventFd::new(EFD_NONBLOCK).context("cannot make an event")?,
            five_levels: AtomicBool::new(false),
            fingerprinter,
            begun: Instant::now(),
            observer: Mutex::new(observer),
        })
    }

    /// Readable when vCPUs are to be kicked until [`Insight::is_settled`].
    pub(crate) fn event(&self) -> &EventFd {
        &self.unsettled
    }

    /// Whether every vCPU's hook is as is wanted.
    pub(crate) fn is_settled(&self) -> bool {
        let wanted = if self.wants_hooks() {
            self.started.load(Ordering::Acquire)
        } else {
            0
        };
        self.armed.load(Ordering::Acquire) == wanted
    }

    fn ask_to_settle(&self) {
        // A counter that is full has a signal to be seen already.
        let _ = self.unsettled.write(1);
    }

    fn wants_hooks(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    fn started(&self) {
        self.started.fetch_add(1, Ordering::AcqRel);
    }

    fn started_anew(&self) {
        lock(&self.observer).meet_all(&self.window);
    }

    fn armed(&self) {
        self.armed.fetch_add(1, Ordering::AcqRel);
    }

    fn unarmed(&self) {
        if self.armed.fetch_sub(1, Ordering::AcqRel) == 1
            && !self.wants_hooks()
            && let Some(mapping) = lock(&self.mapping).take()
        {
            mapping.remove(Memory(&self.memory), self.window.gpa());
        }
    }

    fn window(&self) -> &Window {
        &self.window
    }

    /// Where the stubs are for a vCPU with these registers, whose kernel is entered at `entry`; none
    /// if it cannot be said yet.
    fn reach(&self, sregs: &kvm_sregs, entry: u64) -> Option<u64> {
        let memory = Memory(&self.memory);
        let five_levels = Root::new(sregs.cr3, sregs.cr4).five_levels;
        self.five_levels.store(five_levels, Ordering::Release);
        let gpa = self.window.gpa();
        let mut mapping = lock(&self.mapping);
        if let Some(known) = mapping.as_ref()
            && known.reaches(memory, sregs, entry, gpa)
        {
            return Some(known.address);
        }
        let new = Mapping::install(memory, sregs, entry, gpa)?;
        tracing::debug!("the stubs are at {:#x}", new.address);
        Some(mapping.insert(new).address)
    }

    /// A system call that the stub of vCPU `cpu` let through to here. Whether `regs` have changed.
    fn call(&self, cpu: u8, regs: &mut kvm_regs, fs_base: &dyn Fn() -> Option<u64>) -> bool {
        let mut observer = lock(&self.observer);
        // Its time comes after that of the call before.
        let scene = self.scene(self.window.cr3(cpu), fs_base);
        observer.take_notes(&scene);
        let changed = observer.call(&scene, regs);
        if observer.is_idle() && self.wanted.swap(false, Ordering::AcqRel) {
            self.ask_to_settle();
        }
        changed
    }

    /// What a call is seen in, of the process with this CR3.
    fn scene<'a>(&'a self, cr3: u64, fs_base: &'a dyn Fn() -> Option<u64>) -> Scene<'a> {
        Scene {
            memory: Memory(&self.memory),
            window: &self.window,
            root: Root {
                table: Root::new(cr3, 0).table,
                five_levels: self.five_levels.load(Ordering::Acquire),
            },
            fs_base,
            now_ms: self.now_ms(),
        }
    }

    /// What is known, of all calls up to now.
    fn up_to_date(&self) -> MutexGuard<'_, Observer> {
        let mut observer = lock(&self.observer);
        observer.take_notes(&self.scene(0, &|| None));
        observer
    }

    /// Switches the hooks on or off while the guest runs. Off takes them away as soon as no
    /// insight-call is out.
    pub(crate) fn switch(&self, on: bool) {
        let mut observer = self.up_to_date();
        observer.set(&self.window, on);
        self.wanted
            .store(on || !observer.is_idle(), Ordering::Release);
        drop(observer);
        self.ask_to_settle();
    }

    /// What processes are about to read from disk number `disk`, or from one that may be that, which
    /// has looked at `looked_at` of the latter so far.
    fn take_located(&self, disk: usize, looked_at: &mut u64) -> Vec<(VolumeName, Located)> {
        lock(&self.observer).located.take(disk, looked_at)
    }

    /// For which disks there is something to be taken.
    fn waited_for(&self) -> Arc<WaitedFor> {
        Arc::clone(lock(&self.observer).located.disks())
    }

    /// The pages of what is about to be written to a disk that were written by processes before, or
    /// expected: where they are, and what is known of them.
    fn find(&self, offset: u64, content: &Buffers) -> Vec<(u64, Mark)> {
        let mut hashes = Vec::new();
        pages(offset, content, |at, page| {
            hashes.extend(self.fingerprinter.of(page).map(|hash| (at, hash)));
        });
        let mut observer = lock(&self.observer);
        hashes
            .into_iter()
            .filter_map(|(at, hash)| Some((at, observer.find(hash)?)))
            .collect()
    }

    /// Expects the pages of what came from a disk, of which `class` says that they are being copied,
    /// to be written to a file of that class.
    fn expect(&self, offset: u64, content: &Buffers, class: impl Fn(u64) -> Option<Class>) {
        let mut copied = Vec::new();
        pages(offset, content, |at, page| {
            if let Some(class) = class(at)
                && let Some(hash) = self.fingerprinter.of(page)
            {
                copied.push((hash, class));
            }
        });
        let mut observer = lock(&self.observer);
        for (hash, class) in copied {
            let mark = Mark {
                // It is not known which that is.
                file: FileId::default(),
                class,
                by_size: false,
                dedup: DedupHint::Prefetch,
            };
            observer.contents.expect(hash, mark);
        }
    }

    /// What was seen so far of the guest's file I/O, without its disks.
    fn report(&self) -> Summary {
        let observer = self.up_to_date();
        observer.report.summary(self.now_ms())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What was counted so far.
    pub(crate) fn counts(&self) -> InsightCounts {
        self.up_to_date().counts
    }
}

/// Has the guest's accesses of LSTAR come to this program.
fn filter_lstar(vm: &VmFd) -> Result<()> {
    let cap = kvm_bindings::kvm_enable_cap {
        cap: kvm_bindings::KVM_CAP_X86_USER_SPACE_MSR,
        args: [u64::from(MsrExitReason::Filter.bits()), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&cap)
        .context("KVM_CAP_X86_USER_SPACE_MSR cannot be enabled")?;
    let range = MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base: LSTAR,
        msr_count: 1,
        bitmap: &[0],
    };
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &[range])
        .context("KVM_X86_SET_MSR_FILTER failed")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
