//! Describes a guest, and boots it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::host::Host;
use crate::vm::{Userland, Vm};

/// Which form of the stock kernel to boot.
#[derive(Clone, Copy, Debug)]
pub enum Boot {
    /// The compressed image that the distribution ships.
    BzImage,
    /// The ELF file inside it.
    Vmlinux,
}

/// A guest in the making: one processor, 512 MiB, the bzImage, busybox, no disk.
#[derive(Debug)]
pub struct Guest<'a> {
    host: &'a Host,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    userland: Userland,
    cmdline: String,
    arguments: Vec<String>,
    terminal: Option<(u16, u16)>,
    between: Option<(String, String)>,
}

/// A guest on the host that all tests share.
///
/// # Panics
/// When there is no host to be had.
pub fn guest() -> Guest<'static> {
    Guest::on(Host::shared())
}

impl<'a> Guest<'a> {
    /// A guest on this host.
    pub fn on(host: &'a Host) -> Self {
        let parts = host.parts();
        Self {
            host,
            kernel: parts.kernel.bzimage(),
            initrd: Some(parts.initramfs.clone()),
            userland: Userland::Busybox,
            cmdline: "quiet guest.terminal=dumb".to_owned(),
            arguments: Vec::new(),
            terminal: None,
            between: None,
        }
    }

    /// Boots this form of the stock kernel.
    #[must_use]
    pub fn boot_from(self, form: Boot) -> Self {
        let kernel = &self.host.parts().kernel;
        let kernel = match form {
            Boot::BzImage => kernel.bzimage(),
            Boot::Vmlinux => kernel.vmlinux(),
        };
        Self { kernel, ..self }
    }

    /// Boots this kernel file, this initrd and nothing else, with this command line.
    #[must_use]
    pub fn kernel(self, kernel: &Path, initrd: Option<&Path>, cmdline: &str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            initrd: initrd.map(Path::to_owned),
            cmdline: cmdline.to_owned(),
            ..self
        }
    }

    /// Gives the guest the program `guest-syscalls`.
    #[must_use]
    pub fn with_syscalls(self) -> Self {
        Self {
            initrd: Some(self.host.parts().extra().syscalls.clone()),
            ..self
        }
    }

    /// Expects these programs in the guest.
    #[must_use]
    pub fn userland(self, userland: Userland) -> Self {
        Self { userland, ..self }
    }

    /// Uses this many processors.
    #[must_use]
    pub fn cpus(self, count: u32) -> Self {
        self.with(&["--cpus", &count.to_string()])
    }

    /// Uses this much memory, `4G` for example.
    #[must_use]
    pub fn mem(self, size: &str) -> Self {
        self.with(&["--mem", size])
    }

    /// Attaches a disk: a path of the host's, options after commas.
    #[must_use]
    pub fn disk(self, disk: &str) -> Self {
        self.with(&["--disk", disk])
    }

    /// Attaches virtio devices this way, `pci` or `mmio`.
    #[must_use]
    pub fn transport(self, transport: &str) -> Self {
        self.with(&["--transport", transport])
    }

    /// Adds words to the kernel's command line.
    #[must_use]
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline = format!("{} {words}", self.cmdline);
        self
    }

    /// Adds words to microvm's command line.
    #[must_use]
    pub fn with(mut self, words: &[&str]) -> Self {
        self.arguments
            .extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Gives microvm a terminal of so many rows and columns instead of pipes.
    #[must_use]
    pub fn on_terminal(self) -> Self {
        Self {
            terminal: Some((24, 80)),
            ..self
        }
    }

    /// Runs microvm between two shell commands, on the same standard streams.
    #[must_use]
    pub fn between(self, before: &str, after: &str) -> Self {
        Self {
            between: Some((before.to_owned(), after.to_owned())),
            ..self
        }
    }

    /// Starts the guest and waits for nothing.
    ///
    /// # Panics
    /// When the host cannot start the program.
    pub fn start(self) -> Vm {
        match self.try_start() {
            Ok(vm) => vm,
            Err(error) => panic!("cannot start a guest: {error:#}"),
        }
    }

    /// Starts the guest and waits for its prompt.
    pub fn boot(self) -> Vm {
        let mut vm = self.start();
        vm.wait_for_prompt();
        vm
    }

    /// The command line that starts the guest on its host.
    pub fn argv(&self) -> Vec<String> {
        let mut argv = vec![self.host.microvm()];
        argv.extend([
            "--kernel".to_owned(),
            self.host.path(&self.kernel).display().to_string(),
        ]);
        if let Some(initrd) = &self.initrd {
            argv.extend([
                "--initrd".to_owned(),
                self.host.path(initrd).display().to_string(),
            ]);
        }
        argv.extend(["--cmdline".to_owned(), self.cmdline.clone()]);
        argv.extend(self.arguments.iter().cloned());
        argv
    }

    fn try_start(self) -> Result<Vm> {
        let mut argv = self.argv();
        if let Some((before, after)) = self.between {
            let script = format!("{before}; \"$@\"; status=$?; {after}; exit $status");
            argv.splice(
                0..0,
                ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()],
            );
        }
        Vm::start(self.host, argv, self.userland, self.terminal)
    }
}
