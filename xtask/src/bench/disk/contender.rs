//! The servers, and the images they serve.

use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::nbd::Server;
use anyhow::{Result, ensure};
use images::packages::{Tool, require};

use crate::bench::nbd::{Programs, fill, serve_qemu, warm};

/// An image for each contender, all with the same content and all of it allocated.
pub(super) struct Images {
    directory: PathBuf,
}

impl Images {
    /// Makes them in a directory.
    pub(super) fn make(directory: &Path, size_bytes: u64) -> Result<Self> {
        require(&[Tool::QemuImg])?;
        let images = Self {
            directory: directory.to_owned(),
        };
        fill(&images.path("ours.raw"), size_bytes)?;
        fill(&images.path("qemu.raw"), size_bytes)?;
        for name in ["ours.qcow2", "qemu.qcow2"] {
            let mut convert = Command::new(Tool::QemuImg.command());
            convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
            convert.args([images.path("ours.raw"), images.path(name)]);
            ensure!(convert.status()?.success(), "qemu-img: cannot make {name}");
        }
        for name in ["ours.raw", "ours.qcow2", "qemu.raw", "qemu.qcow2"] {
            warm(&images.path(name))?;
        }
        Ok(images)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// A server of one format.
pub(super) struct Contender {
    program: PathBuf,
    /// QEMU's way to do I/O; absent for ours.
    qemu_aio: Option<String>,
    format: &'static str,
}

impl Contender {
    /// All of them, in the order of the table's columns.
    pub(super) fn all(programs: &Programs, qemu_aio: &str) -> [Self; 4] {
        let Programs { ours, qemu } = programs;
        let ours = |format| Self {
            program: ours.clone(),
            qemu_aio: None,
            format,
        };
        let qemu = |format| Self {
            program: qemu.clone(),
            qemu_aio: Some(qemu_aio.to_owned()),
            format,
        };
        [ours("raw"), ours("qcow2"), qemu("raw"), qemu("qcow2")]
    }

    /// Starts it on its image.
    pub(super) fn start(&self, images: &Images) -> Result<Server> {
        let format = self.format;
        let Some(aio) = &self.qemu_aio else {
            let image = images.path(&format!("ours.{format}"));
            let socket = images.path(&format!("ours-{format}.socket"));
            let image = format!("{},format={format}", image.display());
            return Server::microvm(&self.program, &socket, &[&image]);
        };
        let image = images.path(&format!("qemu.{format}"));
        let socket = images.path(&format!("qemu-{format}.socket"));
        let file = image.display();
        let nodes = [
            format!("driver=file,node-name=file,filename={file},aio={aio}"),
            format!("driver={format},node-name=disk,file=file"),
        ];
        serve_qemu(&self.program, &nodes, &socket)
    }
}
