//! A directory of downloads and built parts, shared by all processes of a user.
//!
//! ```text
//!  ROOT/NAME.lock      locked while the entry is checked or built
//!  ROOT/NAME.partial/  an entry being built; a stale one is removed by the next builder
//!  ROOT/NAME/          a finished entry, put in place by one rename
//!  ROOT/NAME/.manifest one line a file: CRC-32C, length in bytes, path
//! ```
//!
//! An entry whose files do not match its manifest is built again. Deleting the directory, or
//! any entry in it, is always safe while nothing uses it.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

mod manifest;

/// A directory of downloads and built parts.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the user's cache: `$MICROVM_CACHE`, else `$XDG_CACHE_HOME/microvm`, else
    /// `~/.cache/microvm`. The directory is made if it is missing.
    pub fn open() -> Result<Self> {
        let set = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = set("MICROVM_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("microvm")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/microvm")))
            .unwrap_or_else(|| env::temp_dir().join("microvm-cache"));
        Self::at(root)
    }

    /// Opens the cache in `root`, which is made if it is missing.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
        let root = root.canonicalize().map_err(Error::io("resolve", &root))?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Gives the directory of the entry `name`, built by `build` if it is missing or corrupt.
    ///
    /// `build` fills the empty directory it is handed. Another process that asks for the same
    /// entry meanwhile waits and then shares the result.
    pub fn entry(&self, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let lock_path = self.root.join(format!("{name}.lock"));
        let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
        lock.lock().map_err(Error::io("lock", &lock_path))?;

        let entry = self.root.join(name);
        if manifest::holds(&entry) {
            return Ok(entry);
        }
        let partial = self.root.join(format!("{name}.partial"));
        remove_tree(&partial)?;
        fs::create_dir(&partial).map_err(Error::io("create", &partial))?;
        if let Err(error) = build(&partial).and_then(|()| manifest::write(&partial)) {
            // What was built so far may be large. The error that matters is the first.
            let _ = remove_tree(&partial);
            return Err(error);
        }
        remove_tree(&entry)?;
        fs::rename(&partial, &entry).map_err(Error::io("rename into place", &partial))?;
        Ok(entry)
    }
}

/// Removes a directory and what is in it; a missing one is no error.
fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
