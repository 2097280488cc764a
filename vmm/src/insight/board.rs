//! The hooks of a machine over all its boots, as its owner sees them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::GuestMemoryMmap;

use super::log::Log;
use super::{Insight, InsightCounts, Options, Summary, lock};

/// Where hooks are switched, and counted.
pub(crate) struct Board {
    /// What was asked for; nothing if there are to be no hooks at all.
    options: Option<Options>,
    on: AtomicBool,
    log: Option<Arc<Mutex<Log>>>,
    /// Whether a disk wants to know what is alike elsewhere.
    looks_for_alike: bool,
    current: Mutex<Option<Arc<Insight>>>,
}

impl Board {
    /// Of a machine of which a disk `dedups`, or none. An error if the log that is asked for cannot be
    /// written.
    pub(crate) fn new(options: Option<Options>, dedups: bool) -> Result<Self> {
        let on = options.as_ref().is_some_and(|options| options.on);
        let path = options.as_ref().and_then(|options| options.log.as_deref());
        let log = path.map(Log::create).transpose()?;
        Ok(Self {
            options,
            on: AtomicBool::new(on),
            looks_for_alike: dedups || log.is_some(),
            log: log.map(|log| Arc::new(Mutex::new(log))),
            current: Mutex::new(None),
        })
    }

    /// Prepares `vm`, before it has vCPUs, if there are to be hooks.
    pub(crate) fn prepare(
        &self,
        kvm: &Kvm,
        vm: &VmFd,
        memory: &Arc<GuestMemoryMmap>,
        cpus: u8,
    ) -> Result<Option<Arc<Insight>>> {
        let Some(options) = &self.options else {
            return Ok(None);
        };
        let insight = Arc::new(Insight::new(
            kvm,
            vm,
            Arc::clone(memory),
            cpus,
            options,
            self.log.clone(),
            self.looks_for_alike,
        )?);
        if self.on.load(Ordering::Acquire) {
            insight.switch(true);
        }
        *lock(&self.current) = Some(Arc::clone(&insight));
        Ok(Some(insight))
    }

    /// Switches the hooks on or off, in this boot and in those to come.
    pub(crate) fn switch(&self, on: bool) -> Result<()> {
        if self.options.is_none() {
            bail!("the machine was started without --insight");
        }
        self.on.store(on, Ordering::Release);
        if let Some(insight) = lock(&self.current).as_ref() {
            insight.switch(on);
        }
        Ok(())
    }

    /// What was seen of the guest's file I/O in this boot, without its disks.
    pub(crate) fn report(&self) -> Result<Summary> {
        if self.options.is_none() {
            bail!("the machine was started without --insight");
        }
        let current = lock(&self.current).clone();
        let insight = current.context("the machine is just starting")?;
        Ok(insight.report())
    }

    /// What the machine that is about to be closed counted, if it had hooks.
    pub(crate) fn take_counts(&self) -> Option<InsightCounts> {
        if let Some(log) = &self.log {
            lock(log).flush();
        }
        let insight = lock(&self.current).take()?;
        Some(insight.counts())
    }
}
