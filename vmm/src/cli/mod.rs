//! The command line.

mod cache;
pub(crate) mod disk;
pub(crate) mod size;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::disk::DiskArgument;
use self::size::parse_size;
use crate::console::Kind;
use crate::control;
use crate::image::ImageCommand;
use crate::insight;

/// A small KVM hypervisor whose built-in copy-on-write disk is the best there is.
///
/// Without a command, `run` is meant: microvm --kernel bzImage --disk vm.img
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boot a guest (the default)
    Run(RunArguments),
    /// Say what this host can do and what it cannot, with the remedy
    Doctor {
        /// An image (or a directory for images) whose file system is looked at too
        image: Option<PathBuf>,
    },
    /// Ask something of a machine that runs, through its --control socket
    Control(control::Arguments),
    /// Make, examine and change disk images
    #[command(subcommand)]
    Image(ImageCommand),
}

/// The virtio transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// PCI with MSI-X: no exit to this program for a request
    Pci,
    /// Memory-mapped registers, found through ACPI
    Mmio,
}

/// The options of `run`.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArguments {
    /// Kernel: a bzImage or an ELF vmlinux [default: this host's, /boot/vmlinuz-RELEASE]
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,

    /// Initial RAM file system
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,

    /// Added to the kernel command line, where the last word on an option counts
    #[arg(
        long,
        value_name = "STR",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) cmdline: String,

    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cpus: u32,

    /// Memory: 512M, 4G, ...
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    pub(crate) mem: u64,

    /// Disk: an image, a block device or the URL of one; may be given more than once
    ///
    /// More options: data-file=PATH, snapshot=ID|NAME, l2-cache-size=SIZE, direct=on|off, serial=S,
    /// order=journal|ordered|barrier|unsafe, barrier-syscall=N, record-trace=FILE; for qcow2 images
    /// dedup=SIZE; for flat ones copy-on-read, prefetch[=RATE], trace=FILE; for compact ones on a block device
    /// grow[=COMMAND]; for what is far away deadline=SECONDS
    #[arg(long, value_name = "PATH[,readonly][,format=F][,OPTION=VALUE]...")]
    pub(crate) disk: Vec<DiskArgument>,

    /// Watch the system calls of the guest's processes: on|off[,process=GLOB]...[,path=PREFIX]...[,log=FILE]
    #[arg(long, value_name = "on|off[,OPTION=VALUE]...")]
    pub(crate) insight: Option<insight::Options>,

    /// Listen at a Unix socket for `microvm control`
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    /// Give the guest random numbers of the host (virtio-rng)
    #[arg(long)]
    pub(crate) rng: bool,

    /// Serial console: off, stdio, file=PATH or pty
    #[arg(long, value_name = "KIND", default_value = "stdio")]
    pub(crate) console: Kind,

    /// How virtio devices are attached
    #[arg(long, value_enum, default_value_t = Transport::Pci)]
    pub(crate) transport: Transport,

    /// Let the guest's own decompressor place the kernel at a random address (bzImage only)
    #[arg(long)]
    pub(crate) kaslr: bool,

    /// End the program when the guest resets
    #[arg(long)]
    pub(crate) no_reboot: bool,

    /// Write statistics to FILE at the end, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) stats: Option<PathBuf>,

    /// Run even where the host's KVM interprets guest kernel code
    #[arg(long)]
    pub(crate) force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_may_be_said_or_left_out() {
        let bare = Cli::parse_from(["microvm", "--kernel", "k", "--mem", "1G", "--cpus", "2"]);
        assert_eq!((bare.run.mem, bare.run.cpus), (1 << 30, 2));
        let said = Cli::parse_from(["microvm", "run", "--kernel", "k", "--mem", "1G"]);
        assert!(matches!(said.command, Some(Command::Run(run)) if run.mem == 1 << 30));
    }
}
