//! Opening an image file as a disk.

use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;

use crate::raw::Raw;
use crate::{Buffers, Disk, Error, FileOptions, FileStorage, Storage};

/// The format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file's bytes are the disk's.
    Raw,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "raw" => Ok(Self::Raw),
            _ => Err(Error::UnknownFormat {
                name: name.to_owned(),
            }),
        }
    }
}

/// How to open an image file.
///
/// Without a format the image is raw. It is never guessed from the content, which in a raw image
/// the guest writes: a guest that wrote the header of another format could name any file of the
/// host as its backing file, and read it after the next start. A file that looks like another
/// format is refused instead, until its owner says what it is.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    file: FileOptions,
    format: Option<Format>,
}

impl OpenOptions {
    /// Opens the existing file or block device at `path` for reading and writing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            file: FileOptions::new(path),
            format: None,
        }
    }

    /// Whether to open it for reading only. Several may, but not while another writes.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.file = self.file.read_only(read_only);
        self
    }

    /// Whether to leave out the host's page cache (`O_DIRECT`).
    #[must_use]
    pub fn direct(mut self, direct: bool) -> Self {
        self.file = self.file.direct(direct);
        self
    }

    /// The format of the file.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Opens and locks the image. Runs on an [`Executor`](crate::Executor), as does the disk.
    pub async fn open(self) -> Result<Rc<dyn Disk>, Error> {
        let storage = self.file.open()?;
        if self.format.is_none() {
            refuse_other_formats(&storage).await?;
        }
        Ok(Rc::new(Raw::new(storage)?))
    }
}

async fn refuse_other_formats(storage: &FileStorage) -> Result<(), Error> {
    const MAGIC: [(&[u8], &str); 1] = [(b"QFI\xfb", "a qcow2 image")];
    let head = Buffers::zeroed(512);
    if storage.size_bytes() < head.len() as u64 {
        return Ok(());
    }
    storage.read_at(0, head.clone()).await?;
    let head = head.to_vec();
    match MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, looks_like)) => Err(Error::FormatNeeded {
            path: storage.path().to_owned(),
            looks_like,
        }),
        None => Ok(()),
    }
}
