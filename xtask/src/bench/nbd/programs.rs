//! The servers' programs, and how QEMU's is called.

use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::artifacts::{self, Profile};
use ::tests::nbd::Server;
use anyhow::{Context as _, Result};
use images::packages::{Tool, require};

/// The programs that serve images.
pub(in crate::bench) struct Programs {
    /// `microvm`, static and optimised.
    pub(in crate::bench) ours: PathBuf,
    /// `qemu-storage-daemon`.
    pub(in crate::bench) qemu: PathBuf,
}

impl Programs {
    /// Builds ours, and installs QEMU's, where another is not given.
    pub(in crate::bench) fn get(ours: Option<&Path>, qemu: Option<&Path>) -> Result<Self> {
        let ours = match ours {
            Some(program) => program.to_owned(),
            None => artifacts::static_program("microvm", "microvm", Profile::Release)?,
        };
        let qemu = if let Some(program) = qemu {
            program.to_owned()
        } else {
            require(&[Tool::QemuStorageDaemon])?;
            Tool::QemuStorageDaemon.command().into()
        };
        Ok(Self { ours, qemu })
    }

    /// Which QEMU it is: its versions differ a lot.
    pub(in crate::bench) fn qemu_version(&self) -> Result<String> {
        let output = Command::new(&self.qemu).arg("--version").output();
        let output = output.with_context(|| format!("cannot run {}", self.qemu.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

/// QEMU's program, told of `nodes`, which are values of `--blockdev`, lowest first.
pub(in crate::bench) fn qemu_with_nodes(program: &Path, nodes: &[String]) -> Command {
    let mut command = Command::new(program);
    for node in nodes {
        command.args(["--blockdev", node]);
    }
    command
}

/// Starts QEMU's server on the node called `disk` of `nodes`, which are values of `--blockdev`,
/// lowest first.
pub(in crate::bench) fn serve_qemu(
    program: &Path,
    nodes: &[String],
    socket: &Path,
) -> Result<Server> {
    let mut command = qemu_with_nodes(program, nodes);
    let address = format!("addr.type=unix,addr.path={}", socket.display());
    command.args(["--nbd-server", &address]);
    command.arg("--export");
    command.arg("type=nbd,id=export,node-name=disk,name=,writable=on");
    Server::other(&mut command, socket)
}
