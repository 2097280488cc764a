//! How another thread gets a vCPU out of the guest, without a race.
//!
//! A signal interrupts `KVM_RUN`, but one that arrives just before it would be lost. So its handler
//! also sets `immediate_exit` in the vCPU's shared page, which makes the coming `KVM_RUN` return at
//! once.
#![expect(
    unsafe_code,
    reason = "installs a signal handler that writes the shared page of KVM_RUN"
)]

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use kvm_ioctls::{VcpuExit, VcpuFd};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs. Constant-initialised and without a
    /// destructor, so that a signal handler may read it.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal used: the first of the real-time range, which nothing else here uses.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn on_signal(_: libc::c_int) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: non-null means that a `Kickable` of this very thread exists, whose vCPU keeps the
        // page mapped. KVM reads the byte concurrently, hence volatile.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler, once for the process.
pub(crate) fn install_handler() -> Result<()> {
    // SAFETY: a zeroed sigaction is a valid one: default action, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    // SAFETY: the handler only writes a byte, which is async-signal-safe.
    let result = unsafe { libc::sigaction(signal(), &raw const action, ptr::null_mut()) };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("cannot install the vCPU kick handler");
    }
    Ok(())
}

/// Gets the vCPU thread behind `thread` out of the guest, now or as soon as it enters.
pub(crate) fn kick<T>(thread: &JoinHandle<T>) {
    // SAFETY: the handle keeps the thread joinable, so its identifier is valid even if it ended.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), signal()) };
}

/// A vCPU on the thread that runs it, which [`kick`] can get out of the guest.
pub(crate) struct Kickable {
    vcpu: VcpuFd,
    flag: *mut u8,
    port_width: *const u8,
    /// The handler finds the flag by thread, so this value stays on its thread.
    not_send: PhantomData<*mut u8>,
}

impl Kickable {
    /// Takes charge of `vcpu` on the calling thread.
    pub(crate) fn new(mut vcpu: VcpuFd) -> Self {
        let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
        IMMEDIATE_EXIT.set(flag);
        let page = &raw const *vcpu.get_kvm_run();
        // SAFETY: the address of a field, all of whose union the page holds; nothing is read.
        let port_width = unsafe { &raw const (*page).__bindgen_anon_1.io.size };
        Self {
            vcpu,
            flag,
            port_width,
            not_send: PhantomData,
        }
    }

    /// Forgets kicks so far. Call before looking at what the kicker wants, never after.
    pub(crate) fn clear(&self) {
        // SAFETY: the page is mapped as long as `vcpu` lives.
        unsafe { self.flag.write_volatile(0) };
    }

    /// Runs guest code until the next exit. With it comes the width in bytes of a port access:
    /// string instructions bring many accesses to the same port at once.
    pub(crate) fn run(&mut self) -> (usize, Result<VcpuExit<'_>, kvm_ioctls::Error>) {
        let port_width = self.port_width;
        let exit = self.vcpu.run();
        // SAFETY: the page is mapped as long as `vcpu` lives. The byte is not part of the data
        // that `exit` borrows, and is only meaningful for port accesses.
        let width = unsafe { port_width.read_volatile() };
        (usize::from(width).max(1), exit)
    }

    /// The access of an MSR that the last exit was about is a fault for the guest.
    pub(crate) fn refuse_msr(&mut self) {
        // SAFETY: the page is mapped as long as `vcpu` lives, and the exit says that the field is
        // of this kind.
        let msr = unsafe { &mut self.vcpu.get_kvm_run().__bindgen_anon_1.msr };
        msr.error = 1;
    }

    /// The vCPU.
    pub(crate) fn vcpu(&mut self) -> &mut VcpuFd {
        &mut self.vcpu
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
