//! The place that a file system is mounted on.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

/// What a mount point is, and so the root of what is mounted there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The raw file itself.
    File,
    /// A directory with the raw file in it.
    Directory,
}

/// A place that nothing is mounted on yet.
#[derive(Debug)]
pub(crate) struct MountPoint {
    path: PathBuf,
    kind: Kind,
}

impl MountPoint {
    /// Looks at the place at `path`: a regular file, or an empty directory.
    pub(crate) fn find(path: &Path) -> Result<Self> {
        let shown = path.display();
        let place = || format!("{shown}: cannot be a mount point");
        let is_mounted_on = match is_mounted_on(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("{shown}: no such mount point; make an empty file or directory there")
            }
            Err(error) if is_dead(&error) => {
                bail!(
                    "{shown}: what is mounted there has lost its program; \
                     take it away first: umount {shown}"
                )
            }
            found => found.with_context(place)?,
        };
        if is_mounted_on {
            bail!("{shown}: something is mounted there already; choose another mount point");
        }
        let metadata = fs::metadata(path).with_context(place)?;
        let kind = kind(path, &metadata)?;
        let path = fs::canonicalize(path).with_context(place)?;
        Ok(Self { path, kind })
    }

    /// Where it is: an absolute path without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }
}

fn kind(path: &Path, metadata: &Metadata) -> Result<Kind> {
    let shown = path.display();
    if metadata.is_file() {
        return Ok(Kind::File);
    }
    if !metadata.is_dir() {
        bail!("{shown}: neither a regular file nor a directory, so no mount point");
    }
    let mut entries = fs::read_dir(path).with_context(|| format!("{shown}: cannot be read"))?;
    if entries.next().is_some() {
        bail!("{shown}: the directory is not empty; choose an empty one, or a file");
    }
    Ok(Kind::Directory)
}

/// Whether an error says that a FUSE file system has lost its program, before the question or
/// while it was asked.
pub(super) fn is_dead(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [Some(libc::ENOTCONN), Some(libc::ECONNABORTED)].contains(&number)
}

/// Whether `path` leads to the root of a file system, which is asked whether it is alive. Kernels
/// before 5.8 do not say.
pub(super) fn is_mounted_on(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::STATX_FORCE_SYNC;
    let stat = statx(CWD, path, flags, StatxFlags::TYPE)?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_a_file_or_an_empty_directory() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let file = empty.join("file");
        assert_eq!(MountPoint::find(&empty).unwrap().kind(), Kind::Directory);
        fs::write(&file, "covered").unwrap();
        assert_eq!(MountPoint::find(&file).unwrap().kind(), Kind::File);
        for (path, part) in [
            (empty.as_path(), "not empty"),
            (&empty.join("nothing"), "no such mount point"),
            (Path::new("/dev/null"), "neither"),
            (Path::new("/proc"), "mounted there already"),
        ] {
            let error = format!("{:#}", MountPoint::find(path).unwrap_err());
            assert!(error.contains(part), "{error}");
            assert!(error.starts_with(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn symbolic_links_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let found = MountPoint::find(&link).unwrap();
        assert_eq!(found.path(), fs::canonicalize(&file).unwrap());
    }
}
