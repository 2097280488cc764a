//! The read-only disk that brings programs and guest parts into the emulated KVM host.
//!
//! Its file tree is a small root file system made of the machine's own programs with the shared
//! libraries they need, at the places where they are here. Debian's cloud kernel has no 9p and
//! virtiofs needs a daemon; an ext4 image filled by `mke2fs -d` takes a second and nothing else.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::agent::init::MOUNT_POINTS;

/// Space for the file system's own structures, on top of the files, in bytes.
const SLACK_BYTES: u64 = 32 << 20;
/// Where the emulated host finds guest parts.
pub const PARTS_DIR: &str = "/parts";

/// A share in the making.
#[derive(Debug)]
pub struct Share {
    tree: tempfile::TempDir,
    bytes: u64,
    files: HashMap<PathBuf, PathBuf>,
}

impl Share {
    /// A share with busybox and the directories that the agent mounts on. `scratch` is where it
    /// grows: on the file system of most files it is given, it takes no space for them.
    pub fn new(scratch: &Path, busybox: &Path) -> Result<Self> {
        let tree = tempfile::tempdir_in(scratch)?;
        let mut share = Self {
            tree,
            bytes: 0,
            files: HashMap::new(),
        };
        for directory in MOUNT_POINTS
            .into_iter()
            .chain(["usr/bin", "usr/lib", "usr/lib64", "etc"])
        {
            fs::create_dir_all(share.tree.path().join(directory))?;
        }
        for (link, target) in [
            ("bin", "usr/bin"),
            ("sbin", "usr/bin"),
            ("usr/sbin", "bin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
        ] {
            symlink(target, share.tree.path().join(link))?;
        }
        share.place(busybox, Path::new("usr/bin/busybox"))?;
        share.link_applets(busybox)?;
        // Busybox's own shell would run its applets instead of the programs added later.
        share.program("sh")?;
        Ok(share)
    }

    /// Adds a program found in this machine's `PATH`, with its shared libraries.
    pub fn program(&mut self, name: &str) -> Result<()> {
        let program = find_program(name)?;
        self.place(&program, &Path::new("usr/bin").join(name))?;
        self.libraries(&program)
    }

    fn libraries(&mut self, program: &Path) -> Result<()> {
        for library in shared_libraries(program)? {
            let place = usr_merged(&library);
            if !self.tree.path().join(&place).exists() {
                self.place(&library, &place)?;
            }
        }
        Ok(())
    }

    /// Adds a program by path under `name`: static, or with no library but those already there.
    pub fn static_program(&mut self, path: &Path, name: &str) -> Result<()> {
        self.place(path, &Path::new("usr/bin").join(name))
    }

    /// Adds a directory tree at its own path, following symbolic links.
    pub fn directory(&mut self, directory: &Path) -> Result<()> {
        for entry in fs::read_dir(directory).with_context(|| shown(directory, "read"))? {
            let path = entry?.path();
            // A dangling link on this machine is nobody's loss there.
            let Ok(kind) = fs::metadata(&path) else {
                continue;
            };
            if kind.is_dir() {
                self.directory(&path)?;
            } else if kind.is_file() {
                self.place(&path, &usr_merged(&path))?;
            }
        }
        Ok(())
    }

    /// Adds a file at `place`, with its shared libraries if it is a program.
    pub fn file(&mut self, path: &Path, place: &Path) -> Result<()> {
        ensure!(
            !self.files.values().any(|other| other == place),
            "{}: another file of this name is shared already",
            path.display()
        );
        self.place(path, place.strip_prefix("/")?)?;
        if is_elf(path)? {
            self.libraries(path)?;
        }
        self.files.insert(path.to_owned(), place.to_owned());
        Ok(())
    }

    /// Where the emulated host sees the files, by their path here.
    pub fn places(&self) -> &HashMap<PathBuf, PathBuf> {
        &self.files
    }

    /// Writes the image, without a journal: it is never written to.
    pub fn build(&self, image: &Path) -> Result<()> {
        let bytes = self.bytes + self.bytes / 8 + SLACK_BYTES;
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-d",
        ]);
        mke2fs
            .arg(self.tree.path())
            .arg(image)
            .arg(format!("{}k", bytes.div_ceil(1024)));
        run(&mut mke2fs)
    }

    fn place(&mut self, from: &Path, to: &Path) -> Result<()> {
        let to = self.tree.path().join(to);
        let from = fs::canonicalize(from).with_context(|| shown(from, "find"))?;
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::remove_file(&to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        if fs::hard_link(&from, &to).is_err() {
            copy_sparse(&from, &to)?;
        }
        self.bytes += allocated_bytes(&from)?;
        Ok(())
    }

    fn link_applets(&self, busybox: &Path) -> Result<()> {
        let list = Command::new(busybox)
            .arg("--list")
            .output()
            .with_context(|| shown(busybox, "run"))?;
        for applet in String::from_utf8_lossy(&list.stdout)
            .lines()
            .filter(|name| *name != "busybox")
        {
            symlink("busybox", self.tree.path().join("usr/bin").join(applet))?;
        }
        Ok(())
    }
}

fn shown(path: &Path, operation: &str) -> String {
    format!("{}: {operation}", path.display())
}

/// The path on a system where `/bin`, `/sbin`, `/lib` and `/lib64` are links into `/usr`.
fn usr_merged(path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let top = ["bin", "sbin", "lib", "lib64"]
        .iter()
        .any(|top| relative.starts_with(top));
    if top {
        Path::new("usr").join(relative)
    } else {
        relative.to_owned()
    }
}

fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Programs of the administrator are not in everybody's PATH.
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name}: not in PATH"))
}

fn is_elf(path: &Path) -> Result<bool> {
    let mut magic = Vec::new();
    let file = fs::File::open(path).with_context(|| shown(path, "open"))?;
    file.take(4)
        .read_to_end(&mut magic)
        .with_context(|| shown(path, "read"))?;
    Ok(magic == b"\x7fELF")
}

/// What the dynamic loader would load for a program, and the loader; nothing for a static one.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let ldd = Command::new("ldd")
        .arg(program)
        .output()
        .context("ldd: run")?;
    let lines = String::from_utf8_lossy(&ldd.stdout).into_owned();
    if let Some(missing) = lines.lines().find(|line| line.contains("not found")) {
        bail!("{}: library {}", program.display(), missing.trim());
    }
    let path = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from)
    };
    Ok(lines.lines().filter_map(path).collect())
}

fn allocated_bytes(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    // Another 4 KiB for the inode and the last block.
    Ok(fs::metadata(path)?.blocks() * 512 + 4096)
}

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to))
}

/// Runs a tool that says on standard error why it failed.
pub fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name}: run"))?;
    ensure!(
        output.status.success(),
        "{name}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
