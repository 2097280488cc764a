//! The servers, and the images they serve.

use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::nbd::Server;
use anyhow::{Result, ensure};
use images::packages::{Tool, require};

use super::client::Client;
use super::session::Session;
use crate::bench::fuse::Export;
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

    /// Has it serve its image over NBD.
    pub(super) fn serve(&self, images: &Images) -> Result<Session> {
        let socket = images.path(&format!("{}.socket", self.image_name()));
        let server = match self.qemu_nodes(images) {
            Some(nodes) => serve_qemu(&self.program, &nodes, &socket)?,
            None => Server::microvm(&self.program, &socket, &[&self.words(images)])?,
        };
        let client = Client::connect(&socket)?;
        Ok(Session::Nbd(server, client))
    }

    /// Has it show its image as a file.
    pub(super) fn mount(&self, images: &Images) -> Result<Session> {
        let point = images.path(&format!("{}.mounted", self.image_name()));
        let export = match self.qemu_nodes(images) {
            Some(nodes) => Export::qemu(&self.program, &nodes, point)?,
            None => Export::microvm(&self.program, &self.words(images), point)?,
        };
        Ok(Session::Fuse(export))
    }

    fn image_name(&self) -> String {
        let whose = if self.qemu_aio.is_some() {
            "qemu"
        } else {
            "ours"
        };
        format!("{whose}.{}", self.format)
    }

    /// What our program is told of the image.
    fn words(&self, images: &Images) -> String {
        let image = images.path(&self.image_name());
        format!("{},format={}", image.display(), self.format)
    }

    /// What QEMU is told of the image; absent for ours.
    fn qemu_nodes(&self, images: &Images) -> Option<[String; 2]> {
        let aio = self.qemu_aio.as_deref()?;
        let image = images.path(&self.image_name());
        let (file, format) = (image.display(), self.format);
        Some([
            format!("driver=file,node-name=file,filename={file},aio={aio}"),
            format!("driver={format},node-name=disk,file=file"),
        ])
    }
}
