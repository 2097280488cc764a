//! Files in the making.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use disk::{FileOptions, FileStorage, Storage as _, is_remote};
use tempfile::{Builder, TempPath};

/// Symbolic links that a path may lead through, as many as Linux follows.
const LINKS_MAX: usize = 40;

/// A file that has no name until it is whole, and goes away if it never is. Until then, what has
/// the name is left as it was.
///
/// A block device is written in its place: there is no other.
pub(super) struct NewFile {
    /// What it will be called.
    place: PathBuf,
    /// What it is called meanwhile; nothing on a block device.
    temporary: Option<TempPath>,
    /// What has the name now, so that nobody uses it while it is replaced.
    replaced: Option<FileStorage>,
}

impl NewFile {
    /// Makes an empty file, to be called `path`.
    pub(super) fn create(path: &Path) -> Result<Self> {
        if is_remote(path) {
            let path = path.display();
            bail!("{path}: is far away, where nothing can be written; write to a file");
        }
        let metadata = match fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| cannot("create", path)),
        };
        let Some(metadata) = metadata else {
            return Self::beside(end_of_links(path)?, &Permissions::from_mode(0o666), None);
        };
        if metadata.file_type().is_block_device() {
            return Ok(Self {
                place: path.to_owned(),
                temporary: None,
                replaced: None,
            });
        }
        // Not the link that may lead to it.
        let place = fs::canonicalize(path).with_context(|| cannot("replace", path))?;
        let replaced = FileOptions::new(path).open()?;
        let made = Self::beside(place, &metadata.permissions(), Some(replaced))?;
        // The user's mask does not apply to what was there before.
        fs::set_permissions(made.path(), metadata.permissions())
            .with_context(|| cannot("set the permissions of", path))?;
        Ok(made)
    }

    fn beside(
        place: PathBuf,
        permissions: &Permissions,
        replaced: Option<FileStorage>,
    ) -> Result<Self> {
        let temporary = Builder::new()
            .prefix(".microvm-")
            .suffix(".part")
            // Its own way of opening would have an error name the temporary file.
            .make_in(directory(&place), |path| {
                let mut options = File::options();
                options.write(true).create_new(true);
                options.mode(permissions.mode()).open(path)
            })
            .with_context(|| cannot("create", &place))?;
        Ok(Self {
            temporary: Some(temporary.into_temp_path()),
            place,
            replaced,
        })
    }

    /// Where it is to be written.
    pub(super) fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.place)
    }

    /// Whether it is a file, which begins empty, and not a block device.
    pub(super) fn is_file(&self) -> bool {
        self.temporary.is_some()
    }

    /// What it will be called.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// How to open it.
    pub(super) fn options(&self) -> FileOptions {
        FileOptions::new(self.path()).name(&self.place)
    }

    /// Gives it its name, durably. It has been flushed and closed.
    pub(super) fn finish(self) -> Result<()> {
        let Some(temporary) = self.temporary else {
            return Ok(());
        };
        // What has come there in the meantime is somebody's.
        let named = match self.replaced {
            Some(_) => temporary.persist(&self.place),
            None => temporary.persist_noclobber(&self.place),
        };
        named.with_context(|| cannot("rename a file to", &self.place))?;
        if let Some(replaced) = &self.replaced {
            replaced.close();
        }
        File::open(directory(&self.place))
            .and_then(|directory| directory.sync_all())
            .with_context(|| cannot("make durable the name of", &self.place))
    }
}

/// What a path leads to that leads to nothing yet: the name where its links end.
fn end_of_links(path: &Path) -> Result<PathBuf> {
    let mut place = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&place) {
            Ok(next) => place = directory(&place).join(next),
            // Nothing, or no link.
            Err(_) => return Ok(place),
        }
    }
    bail!("{}: leads from link to link", path.display())
}

/// The directory of a file.
fn directory(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn cannot(operation: &str, path: &Path) -> String {
    format!("{}: cannot {operation} it", path.display())
}
