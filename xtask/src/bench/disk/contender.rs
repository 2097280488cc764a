//! The servers, and the images they serve.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::artifacts;
use ::tests::nbd::Server;
use anyhow::{Context as _, Result, ensure};
use images::packages::{Tool, require};
use rustix::fs::{Advice, fadvise};

use super::client::block_start;

/// The unit that says where it belongs; every block is a multiple of it.
pub(super) const STAMP_BYTES: usize = 4096;

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
            let path = images.path(name);
            warm(&path).with_context(|| format!("{}: cannot read", path.display()))?;
        }
        Ok(images)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn fill(path: &Path, size_bytes: u64) -> Result<()> {
    const PIECE_BYTES: usize = 2 << 20;
    let mut file = File::create(path).with_context(|| format!("{}", path.display()))?;
    for start in (0..size_bytes).step_by(PIECE_BYTES) {
        let len = PIECE_BYTES.min(usize::try_from(size_bytes - start)?);
        let mut piece = vec![0x5a; len];
        let stamps = piece.chunks_mut(STAMP_BYTES);
        for (stamp, offset) in stamps.zip((start..).step_by(STAMP_BYTES)) {
            stamp[..8].copy_from_slice(&block_start(offset));
        }
        file.write_all(&piece)
            .with_context(|| format!("{}: cannot write", path.display()))?;
    }
    Ok(())
}

/// Brings a file into the host's cache page by page. The cache is made of pieces as large as what
/// was written or read at once, and their size decides what an access costs (on ext4 a small write
/// to a large piece takes ten times as long): it must be the same for all.
fn warm(path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    fadvise(&file, 0, None, Advice::Random)?;
    let size_bytes = file.metadata()?.len();
    for offset in (0..size_bytes).step_by(STAMP_BYTES) {
        file.read_at(&mut [0; STAMP_BYTES], offset)?;
    }
    Ok(())
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
    pub(super) fn all(qemu: Option<&Path>, qemu_aio: &str) -> Result<[Self; 4]> {
        let ours = artifacts::static_program("microvm", "microvm")?;
        let qemu = if let Some(program) = qemu {
            program.to_owned()
        } else {
            require(&[Tool::QemuStorageDaemon])?;
            Tool::QemuStorageDaemon.command().into()
        };
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
        Ok([ours("raw"), ours("qcow2"), qemu("raw"), qemu("qcow2")])
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
        let mut command = Command::new(&self.program);
        let file = image.display();
        let option = |option: &str, value: String| [option.to_owned(), value];
        command.args(option(
            "--blockdev",
            format!("driver=file,node-name=file,filename={file},aio={aio}"),
        ));
        command.args(option(
            "--blockdev",
            format!("driver={format},node-name=disk,file=file"),
        ));
        let address = format!("addr.type=unix,addr.path={}", socket.display());
        command.args(option("--nbd-server", address));
        command.args(option(
            "--export",
            "type=nbd,id=export,node-name=disk,name=,writable=on".to_owned(),
        ));
        Server::other(&mut command, &socket)
    }
}
