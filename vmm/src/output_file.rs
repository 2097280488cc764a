//! Files that the user names for output: opened early, so that what is wrong with them is said
//! before a guest runs, and emptied only when there is something to write.

use std::fs::File;
use std::io;
use std::path::Path;

/// Opens the file at `path` for writing, and makes it where it is missing. It keeps its content.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Empties a regular file; pipes and devices have nothing to empty.
pub(crate) fn empty(file: &File) -> io::Result<()> {
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        file.set_len(0)?;
    }
    Ok(())
}
