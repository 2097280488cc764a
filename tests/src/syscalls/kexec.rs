//! Another kernel, started by the one that runs.
#![expect(unsafe_code, reason = "loads a kernel, and starts it")]

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::calls::call;

/// The arguments of reboot(2) that have the loaded kernel started.
const REBOOT: [u64; 3] = [0xfee1_dead, 0x2812_1969, 0x4558_4543];

/// Starts the kernel in one file, with the initramfs in another and this kernel's own command line.
/// Returns only if that fails.
pub(super) fn run(kernel: &Path, initramfs: &Path) -> Result<String> {
    let open = |path: &Path| File::open(path).with_context(|| format!("{}: open", path.display()));
    let (kernel, initramfs) = (open(kernel)?, open(initramfs)?);
    let mut cmdline = fs::read("/proc/cmdline").context("/proc/cmdline")?;
    cmdline.retain(|byte| *byte != b'\n');
    cmdline.push(0);
    let fd = |file: &File| u64::from(file.as_raw_fd().cast_unsigned());
    let load = [
        fd(&kernel),
        fd(&initramfs),
        cmdline.len() as u64,
        cmdline.as_ptr() as u64,
        0,
        0,
    ];
    // SAFETY: it reads files and the command line, which are there, and writes nothing of ours.
    let loaded = unsafe { call(libc::SYS_kexec_file_load.cast_unsigned(), load) };
    ensure!(loaded == 0, "kexec_file_load: {loaded}");
    let [first, second, command] = REBOOT;
    // SAFETY: that is the end of everything, which is wanted.
    let error = unsafe {
        call(
            libc::SYS_reboot.cast_unsigned(),
            [first, second, command, 0, 0, 0],
        )
    };
    anyhow::bail!("reboot into the loaded kernel: {error}")
}
