//! The agent as the init of the emulated KVM host: makes a small userland, then serves its ports.
//!
//! It starts from an initramfs that holds this program and the kernel modules, and moves to the
//! read-only [share](`SHARE`) that brings the programs; [`WORK_DIR`] is the disk that stays.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{WaitOptions, chroot, wait};
use rustix::system::{RebootCommand, finit_module, reboot};

use super::serve;

/// Where the initramfs keeps the modules, beside [`MODULE_LIST`].
pub const MODULE_DIR: &str = "/modules";
/// Names of modules, one a line, in the order of loading.
pub const MODULE_LIST: &str = "/modules/order";
/// Serial number of the disk with the userland, mounted read-only as the root.
pub const SHARE: &str = "share";
/// Serial number of the disk that outlives a power cut.
pub const WORK: &str = "work";
/// Where [`WORK`] is mounted.
pub const WORK_DIR: &str = "/work";
/// Command line parameter that says how many ports to serve.
pub const PORTS_PARAMETER: &str = "lab.ports=";

/// Directories that the share must have, for the agent to mount on.
pub const MOUNT_POINTS: [&str; 6] = ["dev", "proc", "sys", "tmp", "run", "work"];

/// How long a device may take to appear, in milliseconds.
const DEVICE_MS_MAX: u64 = 20_000;
const POLL_MS: u64 = 2;

/// Runs as process 1: never returns but to say what failed.
pub fn run() -> Result<()> {
    mount_all(
        "/",
        &[("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev")],
    )?;
    load_modules()?;
    enter_share()?;
    let ports = ports()?;
    // Orphans become children of process 1 and are reaped here; a second process serves, because
    // it must be able to wait for its own children only.
    let mut agent = Command::new("/proc/self/exe")
        .arg("serve")
        .args(ports)
        .spawn()?;
    loop {
        let ended = wait(WaitOptions::empty()).context("waiting for children")?;
        if ended.is_some_and(|(pid, _)| pid.as_raw_nonzero().get() == agent.id().cast_signed()) {
            let _ = agent.try_wait();
            bail!("the agent ended");
        }
    }
}

/// Powers the machine off.
pub fn power_off() {
    rustix::fs::sync();
    let _ = reboot(RebootCommand::PowerOff);
}

/// Serves each port from a thread of its own.
pub fn serve_ports(ports: &[PathBuf]) -> Result<()> {
    let threads: Vec<_> = ports
        .iter()
        .cloned()
        .map(|port| thread::spawn(move || serve_port(&port)))
        .collect();
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a port's thread panicked"))??;
    }
    Ok(())
}

fn serve_port(port: &Path) -> Result<()> {
    let stream = File::options().read(true).write(true).open(port);
    let stream = stream.with_context(|| format!("{}: open", port.display()))?;
    serve(stream.try_clone()?, stream).with_context(|| format!("{}: serve", port.display()))
}

fn mount_all(root: &str, mounts: &[(&str, &str)]) -> Result<()> {
    for (kind, directory) in mounts {
        let target = Path::new(root).join(directory);
        if !target.is_dir() {
            fs::create_dir(&target).with_context(|| format!("{}: create", target.display()))?;
        }
        mount(*kind, &target, *kind, MountFlags::empty(), None)
            .with_context(|| format!("{}: mount {kind}", target.display()))?;
    }
    Ok(())
}

fn load_modules() -> Result<()> {
    let order = fs::read_to_string(MODULE_LIST).with_context(|| format!("{MODULE_LIST}: read"))?;
    for name in order.lines() {
        let path = Path::new(MODULE_DIR).join(format!("{name}.ko"));
        let file = File::open(&path).with_context(|| format!("{}: open", path.display()))?;
        match finit_module(&file, c"", 0) {
            // Loaded already, or built into this kernel.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => bail!("{}: load: {error}", path.display()),
        }
    }
    Ok(())
}

/// Makes the share the root, with the kernel's file systems and the work disk in it.
fn enter_share() -> Result<()> {
    const ROOT: &str = "/share";
    let work = format!("{ROOT}{WORK_DIR}");
    fs::create_dir_all(ROOT)?;
    mount_disk(SHARE, ROOT, MountFlags::RDONLY)?;
    mount_disk(WORK, &work, MountFlags::empty())?;
    for directory in ["/dev", "/proc", "/sys"] {
        mount_move(directory, format!("{ROOT}{directory}"))?;
    }
    mount_all(ROOT, &[("tmpfs", "tmp"), ("tmpfs", "run")])?;
    mount_all(
        ROOT,
        &[
            ("devpts", "dev/pts"),
            ("tmpfs", "dev/shm"),
            ("debugfs", "sys/kernel/debug"),
        ],
    )?;
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, format!("{ROOT}/dev/{link}"))?;
    }
    std::env::set_current_dir(ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

fn mount_disk(serial: &str, target: &str, flags: MountFlags) -> Result<()> {
    let device = wait_for(serial, || disk_with_serial(serial))?;
    mount(&device, target, "ext4", flags, None)
        .with_context(|| format!("{}: mount on {target}", device.display()))
}

/// The kernel numbers disks in the order in which it finds them, which is no promise.
fn disk_with_serial(serial: &str) -> Option<PathBuf> {
    let mut disks = fs::read_dir("/sys/block").ok()?.flatten();
    let disk = disks.find(|disk| {
        fs::read_to_string(disk.path().join("serial")).is_ok_and(|text| text.trim() == serial)
    })?;
    Some(Path::new("/dev").join(disk.file_name())).filter(|device| device.exists())
}

/// The device of every port, once the kernel has found as many as its command line promises.
fn ports() -> Result<Vec<PathBuf>> {
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let count = cmdline
        .split_whitespace()
        .find_map(|word| word.strip_prefix(PORTS_PARAMETER));
    let count: usize = count
        .with_context(|| format!("no {PORTS_PARAMETER}"))?
        .parse()?;
    wait_for("virtio ports", || {
        let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
        let ports: Vec<_> = ports
            .flatten()
            .map(|port| Path::new("/dev").join(port.file_name()))
            .collect();
        (ports.len() == count && ports.iter().all(|port| port.exists())).then_some(ports)
    })
}

fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> Result<T> {
    for _ in 0..DEVICE_MS_MAX / POLL_MS {
        if let Some(found) = found() {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(POLL_MS));
    }
    Err(io::Error::from(io::ErrorKind::TimedOut)).with_context(|| format!("{what}: did not appear"))
}
