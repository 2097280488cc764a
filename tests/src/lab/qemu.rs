//! The process that emulates the KVM host.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::clock::Clock;
use super::drive::{Drive, attach};
use crate::agent::init::{PORTS_PARAMETER, SHARE, WORK};
use crate::agent::{die_with_parent, inherit};

/// How many commands can run at a time.
const PORTS: usize = 8;
/// The process goes at once when it is killed; longer means that the kernel cannot free it.
const DEATH_DEADLINE: Duration = Duration::from_secs(30);
/// How long after its ports closed the process may take to end.
const LAST_WORDS_DEADLINE: Duration = Duration::from_secs(1);

/// The files that make up an emulated host.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) share: PathBuf,
    pub(super) disk: PathBuf,
    /// What it has beside these two.
    pub(super) drives: Vec<Drive>,
    /// Gets what the emulated host's kernel says.
    pub(super) console: PathBuf,
}

/// The emulator at work. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Qemu {
    /// A number could be another process's by the time it is used.
    handle: OwnedFd,
    /// What the process complained of, once it ended.
    ended: Mutex<Receiver<String>>,
}

impl Qemu {
    /// Starts the emulator and returns our ends of its ports.
    pub(super) fn start(
        files: &Files,
        memory_mib: u32,
        cpus: u32,
        clock: Clock,
    ) -> Result<(Self, Vec<UnixStream>)> {
        let mut command = machine(files, memory_mib, cpus, clock);
        let (mut ours, mut theirs) = (Vec::new(), Vec::<OwnedFd>::new());
        for number in 1..=PORTS {
            let (our, their) = UnixStream::pair()?;
            port(&mut command, number, &their);
            ours.push(our);
            theirs.push(their.into());
        }
        inherit(&mut command, theirs);
        Ok((keep(command)?, ours))
    }

    /// Kills the process: a power cut for the emulated host.
    pub(super) fn kill(&self) {
        // An error says that it ended by itself.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
        let _ = self.wait(DEATH_DEADLINE);
    }

    /// What the emulator complained of, if it has ended.
    pub(super) fn last_words(&self) -> Option<String> {
        self.wait(LAST_WORDS_DEADLINE)
    }

    fn wait(&self, deadline: Duration) -> Option<String> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.recv_timeout(deadline).ok()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

fn machine(files: &Files, memory_mib: u32, cpus: u32, clock: Clock) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    match clock {
        Clock::RealTime => command.args(["-accel", "tcg,thread=multi"]),
        Clock::Instructions => command.args([
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=0,sleep=off",
        ]),
    };
    command.args([
        "-M",
        "microvm,rtc=on",
        "-cpu",
        "max,+svm",
        "-nodefaults",
        "-no-user-config",
    ]);
    command.args(["-display", "none", "-no-reboot"]);
    command.args(["-smp", &cpus.to_string(), "-m", &memory_mib.to_string()]);
    command
        .arg("-serial")
        .arg(format!("file:{}", escaped(&files.console)));
    command
        .arg("-kernel")
        .arg(&files.kernel)
        .arg("-initrd")
        .arg(&files.initramfs);
    command.arg("-append").arg(format!(
        "console=ttyS0 reboot=t panic=-1 mitigations=off quiet tsc_early_khz={} tsc=reliable \
         clocksource=tsc {PORTS_PARAMETER}{PORTS}",
        clock.tsc_khz()
    ));
    drive(&mut command, &files.share, SHARE, "readonly=on");
    // Nothing is ever asked of this machine's own disk: killing the emulator loses the emulated
    // host's page cache, never what its kernel had handed to its disk.
    drive(
        &mut command,
        &files.disk,
        WORK,
        "readonly=off,discard=unmap",
    );
    for drive in &files.drives {
        drive.attach(&mut command);
    }
    command.args(["-device", "virtio-serial-device,max_ports=16"]);
    command
}

/// A comma ends a value in QEMU's option syntax unless it is doubled.
pub(super) fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn drive(command: &mut Command, file: &Path, id: &str, options: &str) {
    let file = escaped(file);
    attach(command, id, &format!("file={file},cache=unsafe,{options}"));
}

fn port(command: &mut Command, number: usize, stream: &UnixStream) {
    let fd = stream.as_raw_fd();
    command
        .arg("-chardev")
        .arg(format!("socket,id=port{number},fd={fd}"));
    command.arg("-device").arg(format!(
        "virtserialport,chardev=port{number},name=lab.{number}"
    ));
}

/// Starts the process from a thread that stays as long as it does: it dies with that thread.
fn keep(mut command: Command) -> Result<Qemu> {
    die_with_parent(&mut command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let (started, outcome) = channel();
    let (end, ended) = channel();
    thread::spawn(move || {
        let child = match spawn(&mut command) {
            Ok((child, handle)) => {
                let _ = started.send(Ok(handle));
                child
            }
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        // Drops our copies of its ports: they close when the process does.
        drop(command);
        let said = child
            .wait_with_output()
            .map(|output| output.stderr)
            .unwrap_or_default();
        let _ = end.send(String::from_utf8_lossy(&said).trim().to_owned());
    });
    let handle = outcome.recv()?.context("qemu-system-x86_64: start")?;
    Ok(Qemu {
        handle,
        ended: Mutex::new(ended),
    })
}

fn spawn(command: &mut Command) -> io::Result<(Child, OwnedFd)> {
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::NotFound)?;
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    Ok((child, handle))
}
