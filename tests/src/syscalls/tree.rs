//! Trees of files: what is in them, and their end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};

/// What is in a directory, and in those below it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Files, each with its size in bytes.
    pub(super) files: Vec<(PathBuf, u64)>,
    /// Directories, each after the one it is in; the first is the tree itself.
    pub(super) directories: Vec<PathBuf>,
}

impl Tree {
    /// Looks what there is, in the order of names. A file alone is a tree without a directory.
    pub(super) fn walk(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.add(root)?;
        Ok(tree)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let problem = || format!("{}: read", path.display());
        let metadata = fs::symlink_metadata(path).with_context(problem)?;
        if !metadata.is_dir() {
            self.files.push((path.to_owned(), metadata.len()));
            return Ok(());
        }
        self.directories.push(path.to_owned());
        let entries = fs::read_dir(path).with_context(problem)?;
        let names: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut names = names.with_context(problem)?;
        names.sort_unstable();
        names.iter().try_for_each(|path| self.add(path))
    }

    /// The bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Walks a tree.
pub(super) fn find(root: &Path) -> Result<String> {
    let start = Instant::now();
    let tree = Tree::walk(root)?;
    Ok(format!(
        "find files={} directories={} bytes={} ns={}",
        tree.files.len(),
        tree.directories.len(),
        tree.bytes(),
        start.elapsed().as_nanos()
    ))
}

/// Removes a tree.
pub(super) fn remove(root: &Path) -> Result<String> {
    let start = Instant::now();
    let tree = Tree::walk(root)?;
    for (file, _) in &tree.files {
        fs::remove_file(file).with_context(|| format!("{}: remove", file.display()))?;
    }
    for directory in tree.directories.iter().rev() {
        fs::remove_dir(directory).with_context(|| format!("{}: remove", directory.display()))?;
    }
    Ok(format!(
        "remove files={} directories={} ns={}",
        tree.files.len(),
        tree.directories.len(),
        start.elapsed().as_nanos()
    ))
}
