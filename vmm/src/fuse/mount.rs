//! Mounting and unmounting, by the system call where that is allowed, else by `fusermount3`.

use std::ffi::CString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{getgid, getuid};

use super::TRANSFER_MAX_BYTES;
use super::fusermount;
use super::identity::{Identity, Place};
use super::mount_point::{Kind, MountPoint, is_dead, is_mounted_on};

const DEVICE: &str = "/dev/fuse";
/// What the file system calls itself in `/proc/self/mounts`, behind `fuse.`.
pub(super) const SUBTYPE: &str = "microvm";

/// How to mount.
#[derive(Clone, Debug)]
pub(crate) struct MountOptions {
    /// What is mounted, for whoever lists mounts.
    pub(crate) source: PathBuf,
    /// Whether nobody may write.
    pub(crate) read_only: bool,
    /// Whether others than the user of this program may use it, as far as the file's permissions
    /// let them.
    pub(crate) allow_other: bool,
}

/// A mounted file system. Whoever drops this leaves it mounted.
#[derive(Debug)]
pub(crate) struct Mount {
    path: PathBuf,
    identity: Identity,
}

/// How an unmounting went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmounted {
    /// Nobody used it.
    Whole,
    /// It is not to be seen any more, but goes on for those who still use it. Somebody else may
    /// have done that before.
    Detached,
    /// It is still there, beneath what somebody else has mounted over it.
    Covered,
}

impl Mount {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts a file system on `point`, and returns the descriptor on which to serve it.
    pub(crate) fn new(point: &MountPoint, options: &MountOptions) -> Result<(OwnedFd, Self)> {
        let opened = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let descriptor = match opened {
            Ok(device) => match mount_on(&device, point, options) {
                Ok(()) => device,
                Err(Errno::PERM) => fusermount::mount(point.path(), options)?,
                Err(error) => return Err(io::Error::from(error)).with_context(|| cannot(point)),
            },
            Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
                bail!("there is no {DEVICE}: load the kernel's module (modprobe fuse)")
            }
            // The helper may open what its user may not.
            Err(Errno::ACCESS | Errno::PERM) => fusermount::mount(point.path(), options)?,
            Err(error) => return Err(io::Error::from(error)).context(DEVICE),
        };
        let path = point.path().to_owned();
        let identity = Identity::of(&path).with_context(|| cannot(point))?;
        Ok((descriptor, Self { path, identity }))
    }

    /// Unmounts it, at least for those who look for it from now on, but never what is somebody
    /// else's. Blocks until the kernel has written what it holds, so somebody else must serve it
    /// meanwhile.
    pub(crate) fn unmount(&self) -> io::Result<Unmounted> {
        self.unmount_with(UnmountFlags::empty(), Unmounted::Whole)
            .or_else(|error| match error.kind() {
                ErrorKind::ResourceBusy => {
                    self.unmount_with(UnmountFlags::DETACH, Unmounted::Detached)
                }
                _ => Err(error),
            })
    }

    fn unmount_with(&self, flags: UnmountFlags, done: Unmounted) -> io::Result<Unmounted> {
        let path = match self.identity.find()? {
            Place::At(path) => path,
            Place::Covered => return Ok(Unmounted::Covered),
            Place::Nowhere => return Ok(Unmounted::Detached),
        };
        match unmount_from(&path, flags) {
            Ok(()) => Ok(done),
            Err(error) if is_not_mounted(&error) => Ok(Unmounted::Detached),
            Err(error) => Err(error),
        }
    }

    /// Takes away what is left of a mount whose descriptor was closed while it was still there.
    pub(crate) fn remove_dead(&self) -> io::Result<()> {
        let Place::At(path) = self.identity.find()? else {
            return Ok(());
        };
        match is_mounted_on(&path) {
            Err(error) if is_dead(&error) => unmount_from(&path, UnmountFlags::DETACH),
            _ => Ok(()),
        }
    }
}

fn cannot(point: &MountPoint) -> String {
    format!("{}: cannot mount", point.path().display())
}

/// Mounts by the system call, which root may use, in a user's own namespace too.
fn mount_on(
    device: &OwnedFd,
    point: &MountPoint,
    options: &MountOptions,
) -> rustix::io::Result<()> {
    let root = match point.kind() {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
    };
    let data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},{}",
        device.as_raw_fd(),
        root.as_raw_mode(),
        getuid().as_raw(),
        getgid().as_raw(),
        kernel_options(options),
    );
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    let kind = format!("fuse.{SUBTYPE}");
    mount(&options.source, point.path(), kind, flags, &*data)
}

/// The options that the kernel knows, whoever mounts. It looks after permissions itself.
pub(super) fn kernel_options(options: &MountOptions) -> String {
    let mut text = format!("default_permissions,max_read={TRANSFER_MAX_BYTES}");
    if options.allow_other {
        text.push_str(",allow_other");
    }
    text
}

/// What the system call says, and what we make of the helper's words.
fn is_not_mounted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL) || error.kind() == ErrorKind::NotFound
}

fn unmount_from(path: &Path, flags: UnmountFlags) -> io::Result<()> {
    match unmount(path, flags) {
        Err(Errno::PERM) => fusermount::unmount(path, flags.contains(UnmountFlags::DETACH)),
        result => Ok(result?),
    }
}
