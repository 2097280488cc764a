//! The programs of the host that tests and tools use, and how to get them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::command::{is_root, line, progress, run};
use crate::{Error, Result, apt};

/// A program of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// A C compiler, which also links Rust programs.
    Cc,
    /// Fills a disk with verified I/O.
    Fio,
    /// Mounts and unmounts FUSE file systems without root.
    Fusermount,
    /// Keeps versions of files.
    Git,
    /// Builds Debian packages.
    DpkgBuildpackage,
    /// The ACPI compiler, which also disassembles.
    Iasl,
    /// Does what a makefile says.
    Make,
    /// Makes ext4 file systems.
    Mke2fs,
    /// Makes btrfs file systems.
    MkfsBtrfs,
    /// Makes XFS file systems.
    MkfsXfs,
    /// Makes Debian root file systems.
    Mmdebstrap,
    /// Copies between NBD servers and files.
    NbdCopy,
    /// Asks NBD servers what they offer.
    NbdInfo,
    /// Serves what other NBD servers serve, changed by filters.
    NbdKit,
    /// Inspects and makes disk images.
    QemuImg,
    /// Reads and writes disk images, piece by piece.
    QemuIo,
    /// Serves disk images.
    QemuStorageDaemon,
    /// The emulator that the lab's KVM host runs in.
    QemuSystem,
    /// Keeps a database in a file.
    Sqlite,
    /// Traces system calls.
    Strace,
    /// Makes the namespaces in which a root file system is built without root.
    Uidmap,
}

impl Tool {
    /// The name of the program.
    pub const fn command(self) -> &'static str {
        match self {
            Self::Cc => "cc",
            Self::Fio => "fio",
            Self::Fusermount => "fusermount3",
            Self::Git => "git",
            Self::DpkgBuildpackage => "dpkg-buildpackage",
            Self::Iasl => "iasl",
            Self::Make => "make",
            Self::Mke2fs => "mke2fs",
            Self::MkfsBtrfs => "mkfs.btrfs",
            Self::MkfsXfs => "mkfs.xfs",
            Self::Mmdebstrap => "mmdebstrap",
            Self::NbdCopy => "nbdcopy",
            Self::NbdInfo => "nbdinfo",
            Self::NbdKit => "nbdkit",
            Self::QemuImg => "qemu-img",
            Self::QemuIo => "qemu-io",
            Self::QemuStorageDaemon => "qemu-storage-daemon",
            Self::QemuSystem => "qemu-system-x86_64",
            Self::Sqlite => "sqlite3",
            Self::Strace => "strace",
            Self::Uidmap => "newuidmap",
        }
    }

    /// The Debian and Ubuntu package that holds it.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Cc => "gcc",
            Self::Fio => "fio",
            Self::Fusermount => "fuse3",
            Self::Git => "git",
            Self::DpkgBuildpackage => "dpkg-dev",
            Self::Iasl => "acpica-tools",
            Self::Make => "make",
            Self::Mke2fs => "e2fsprogs",
            Self::MkfsBtrfs => "btrfs-progs",
            Self::MkfsXfs => "xfsprogs",
            Self::Mmdebstrap => "mmdebstrap",
            Self::NbdCopy | Self::NbdInfo => "libnbd-bin",
            Self::NbdKit => "nbdkit",
            Self::QemuImg | Self::QemuIo => "qemu-utils",
            Self::QemuStorageDaemon => "qemu-system-common",
            Self::QemuSystem => "qemu-system-x86",
            Self::Sqlite => "sqlite3",
            Self::Strace => "strace",
            Self::Uidmap => "uidmap",
        }
    }

    /// Where the program is; the directories of the administrator's programs, which are often
    /// not in an ordinary user's `PATH`, are looked through too.
    pub fn find(self) -> Option<PathBuf> {
        find(self.command())
    }

    /// A command that starts the program.
    pub(crate) fn start(self) -> Command {
        Command::new(self.find().unwrap_or_else(|| PathBuf::from(self.command())))
    }
}

/// Makes sure that the host has all of `tools`: what is missing is installed with `apt-get`, as
/// root or through `sudo`. Says on standard error what it installs.
///
/// Where neither works, the error holds the exact command to type.
pub fn require(tools: &[Tool]) -> Result<()> {
    let missing: Vec<Tool> = tools
        .iter()
        .copied()
        .filter(|tool| tool.find().is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = packages(&missing);
    if find("apt-get").is_none() {
        return Err(Error::NoApt {
            what: packages.join(", "),
        });
    }
    let Some(root) = becoming_root() else {
        return Err(Error::Missing {
            commands: missing.iter().map(|tool| tool.command()).collect(),
            remedy: format!("apt-get install -y {}", packages.join(" ")),
        });
    };
    if !apt::host_has_lists() {
        progress("updating the package lists (apt-get update)");
        run(root.command("apt-get").args(["-qq", "update"]))?;
    }
    let mut install = root.command("env");
    install.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y"]);
    install.args([
        "-o",
        "DPkg::Lock::Timeout=300",
        "--no-install-recommends",
        "install",
    ]);
    install.args(&packages);
    progress(&format!(
        "installing {} ({})",
        packages.join(", "),
        line(&install)
    ));
    run(&mut install)?;
    Ok(())
}

/// The packages of `tools`, each once.
fn packages(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<_> = tools.iter().map(|tool| tool.package()).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// How this user runs a program as root.
enum Root {
    /// It is root.
    Already,
    /// By `sudo`, which may ask for a password on the terminal.
    Sudo,
}

impl Root {
    fn command(&self, program: &str) -> Command {
        match self {
            Self::Already => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg(program);
                command
            }
        }
    }
}

fn becoming_root() -> Option<Root> {
    if is_root() {
        return Some(Root::Already);
    }
    find("sudo")?;
    // `sudo` asks for a password on the terminal itself, even where standard input is closed.
    let check = Command::new("sudo")
        .arg("-v")
        .stdin(Stdio::inherit())
        .status();
    check
        .is_ok_and(|status| status.success())
        .then_some(Root::Sudo)
}

fn find(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let administration = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(administration)
        .map(|directory| directory.join(command))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_and_ignores_what_is_not_one() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
        let plain = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_executable(plain.path()), "a file without the x bit");
        assert!(!is_executable(Path::new("/usr")), "a directory");
    }

    #[test]
    fn a_package_is_installed_once_whatever_needs_it() {
        assert_eq!(
            packages(&[Tool::QemuImg, Tool::Fio, Tool::QemuImg]),
            ["fio", "qemu-utils"]
        );
    }
}
