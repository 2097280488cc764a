//! Drives that an emulated host has beside its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::qemu::escaped;

/// A drive that the emulated host finds by its serial number, which is no other's.
#[derive(Clone, Debug)]
pub struct Drive {
    pub(super) serial: String,
    source: Source,
}

/// Where its content is.
#[derive(Clone, Debug)]
enum Source {
    /// In a raw image, which is only read.
    Image(PathBuf),
    /// Behind an NBD server's Unix socket, whose default export is read and written.
    Nbd(PathBuf),
}

impl Drive {
    /// A raw image of this machine, which is only read.
    pub fn image(serial: &str, path: &Path) -> Self {
        Self {
            serial: serial.to_owned(),
            source: Source::Image(path.to_owned()),
        }
    }

    /// What an NBD server of this machine lends at `socket`, and is as slow as that is.
    pub fn nbd(serial: &str, socket: &Path) -> Self {
        Self {
            serial: serial.to_owned(),
            source: Source::Nbd(socket.to_owned()),
        }
    }

    /// Adds it to an emulator. This machine's page cache has nothing of what a server lends.
    pub(super) fn attach(&self, command: &mut Command) {
        let Self { serial, source } = self;
        let source = match source {
            Source::Image(path) => format!("file={},readonly=on,cache=unsafe", escaped(path)),
            Source::Nbd(socket) => format!(
                "file.driver=nbd,file.server.type=unix,file.server.path={},cache=none",
                escaped(socket)
            ),
        };
        attach(command, serial, &source);
    }
}

/// Adds a raw drive with this serial number to an emulator. `source` is what QEMU's option `-drive` says
/// of its content.
pub(super) fn attach(command: &mut Command, serial: &str, source: &str) {
    let drive = format!("if=none,id={serial},format=raw,{source}");
    command.args(["-drive", &drive]);
    let device = format!("virtio-blk-device,drive={serial},serial={serial}");
    command.args(["-device", &device]);
}
