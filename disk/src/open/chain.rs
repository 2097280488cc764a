//! An image and the backing files that it stands on, one below the other.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::recognize::{LOOKS_LIKE_QCOW2, looks_like};
use super::{Format, OpenOptions, name};
use crate::qcow2::format::{BitmapEntry, FormatError, Header, SnapshotEntry};
use crate::qcow2::{Parts, Qcow2, file, snapshot};
use crate::{Disk, Error, FileStorage, Raw, Storage as _};

/// The most files in a chain; each keeps two descriptors open.
pub const CHAIN_MAX: usize = 200;

/// The files of an image, opened and locked: first the image, then its backing file, and so on.
pub struct Chain {
    layers: Vec<Layer>,
    options: OpenOptions,
    /// Nobody gave the format of the image, which names other files all the same.
    guessed: bool,
}

/// One file of a chain.
pub struct Layer {
    /// The file, as it was named or found.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its header, if it is a qcow2 image.
    pub header: Option<Header>,
    /// Its bytes.
    pub storage: FileStorage,
}

impl Layer {
    /// Where its backing file is.
    pub fn backing_path(&self) -> Result<Option<PathBuf>, Error> {
        let name = self.header.as_ref().and_then(|h| h.backing_file.as_deref());
        name.map(|name| self.resolve("backing file", name))
            .transpose()
    }

    /// Where its external data file is.
    pub fn data_path(&self) -> Result<Option<PathBuf>, Error> {
        let header = self.header.as_ref().filter(|header| header.has_data_file());
        let Some(header) = header else {
            return Ok(None);
        };
        match &header.data_file {
            Some(name) => self.resolve("data file", name).map(Some),
            None => {
                Err(self.unsupported("does not name its data file; give data-file=PATH".into()))
            }
        }
    }

    /// The format of its backing file, if that is recorded.
    fn backing_format(&self) -> Result<Option<Format>, Error> {
        let name = self
            .header
            .as_ref()
            .and_then(|header| header.backing_format.as_deref());
        name.map(str::parse).transpose().map_err(|_| {
            let name = name.unwrap_or_default();
            let known = Format::KNOWN;
            self.unsupported(format!(
                "its backing file has the format '{name}'; known: {known}"
            ))
        })
    }

    /// The size of its disk in bytes. That of a raw one may end within a sector.
    pub fn virtual_size_bytes(&self) -> u64 {
        match &self.header {
            Some(header) => header.size_bytes,
            None => self.storage.size_bytes(),
        }
    }

    /// Its internal snapshots.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotEntry>, Error> {
        match &self.header {
            Some(header) => snapshot::list(&self.storage, header).await,
            None => Ok(Vec::new()),
        }
    }

    /// Its persistent bitmaps.
    pub async fn bitmaps(&self) -> Result<Vec<BitmapEntry>, Error> {
        let Some(bitmaps) = self.header.as_ref().and_then(|header| header.bitmaps) else {
            return Ok(Vec::new());
        };
        let len = file::len(bitmaps.directory_bytes);
        let directory = file::read(&self.storage, bitmaps.directory_offset, len).await?;
        bitmaps
            .parse_directory(&directory)
            .map_err(FormatError::at(&self.path))
    }

    /// Refuses to open what it names, if nobody gave its format.
    fn refuse_if(&self, guessed: bool) -> Result<(), Error> {
        if guessed {
            return Err(Error::FormatNeeded {
                path: self.path.clone(),
                looks_like: "a qcow2 image that names another file",
            });
        }
        Ok(())
    }

    fn resolve(&self, what: &str, name: &str) -> Result<PathBuf, Error> {
        name::resolve(&self.path, name)
            .map_err(|problem| self.unsupported(format!("its {what} '{name}' {problem}")))
    }

    fn unsupported(&self, problem: String) -> Error {
        Error::Unsupported {
            path: self.path.clone(),
            problem,
        }
    }

    /// A disk of this layer on top of `backing`.
    async fn into_disk(
        self,
        backing: Option<Rc<dyn Disk>>,
        options: &OpenOptions,
    ) -> Result<Rc<dyn Disk>, Error> {
        match self.format {
            Format::Raw => Ok(Rc::new(Raw::new(self.storage)?)),
            Format::Qcow2 => {
                let data_path = self.data_path()?;
                Ok(self.into_qcow2(backing, data_path, options).await?)
            }
        }
    }

    async fn into_qcow2(
        self,
        backing: Option<Rc<dyn Disk>>,
        data_path: Option<PathBuf>,
        options: &OpenOptions,
    ) -> Result<Rc<Qcow2<FileStorage>>, Error> {
        let read_only = self.storage.geometry().read_only;
        let data_file = data_path.map(|path| options.file(path, read_only).open());
        let parts = Parts {
            backing,
            data_file: data_file.transpose()?,
            l2_cache_bytes: options.l2_cache_bytes,
        };
        Ok(Rc::new(Qcow2::open(self.storage, parts).await?))
    }
}

impl Chain {
    pub(super) async fn open(options: OpenOptions) -> Result<Self, Error> {
        let mut layers: Vec<Layer> = Vec::new();
        let mut files = Vec::new();
        let mut guessed = false;
        let mut next = Some((options.path.clone(), options.format));
        while let Some((path, format)) = next {
            let read_only = options.read_only || !layers.is_empty();
            check_place(&path, &mut files, layers.last())?;
            let mut file = options.file(path.clone(), read_only);
            if let Some(name) = options.name.as_ref().filter(|_| layers.is_empty()) {
                file = file.name(name);
            }
            let storage = file.open()?;
            let given = format.is_some();
            let format = match format {
                Some(format) => format,
                None => guess(&storage, layers.last(), options.recognize).await?,
            };
            let header = match format {
                Format::Raw => None,
                Format::Qcow2 => Some(file::read_header(&storage).await?),
            };
            let layer = Layer {
                path,
                format,
                header,
                storage,
            };
            guessed |= !given && format == Format::Qcow2;
            next = None;
            if layers.len() + 1 < options.layers_max
                && let Some(path) = layer.backing_path()?
            {
                layer.refuse_if(guessed)?;
                next = Some((path, layer.backing_format()?));
            }
            layers.push(layer);
        }
        Ok(Self {
            layers,
            options,
            guessed,
        })
    }

    /// The files, the image first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Makes a disk of them.
    pub async fn into_disk(mut self) -> Result<Rc<dyn Disk>, Error> {
        let backing = self.backing().await?;
        let image = self.layers.remove(0);
        match image.format {
            Format::Raw => image.into_disk(None, &self.options).await,
            Format::Qcow2 => Ok(self.image(image, backing).await?),
        }
    }

    /// Makes a disk of them that must be a qcow2 image.
    pub async fn into_qcow2(mut self) -> Result<Rc<Qcow2<FileStorage>>, Error> {
        let backing = self.backing().await?;
        let image = self.layers.remove(0);
        match image.format {
            Format::Raw => {
                Err(image.unsupported("is a raw image; this needs a qcow2 image".into()))
            }
            Format::Qcow2 => self.image(image, backing).await,
        }
    }

    /// Makes a disk of all but the image itself.
    async fn backing(&mut self) -> Result<Option<Rc<dyn Disk>>, Error> {
        let mut below = None;
        while self.layers.len() > 1 {
            if let Some(layer) = self.layers.pop() {
                below = Some(layer.into_disk(below, &self.options).await?);
            }
        }
        Ok(below)
    }

    async fn image(
        &self,
        image: Layer,
        backing: Option<Rc<dyn Disk>>,
    ) -> Result<Rc<Qcow2<FileStorage>>, Error> {
        let data_path = match &self.options.data_file {
            Some(_) if !image.header.as_ref().is_some_and(Header::has_data_file) => {
                return Err(image.unsupported("has no data file, but data-file= was given".into()));
            }
            Some(path) => Some(path.clone()),
            None => {
                let path = image.data_path()?;
                image.refuse_if(self.guessed && path.is_some())?;
                path
            }
        };
        image.into_qcow2(backing, data_path, &self.options).await
    }
}

/// A loop must be found before the file is opened: it may be locked by us already.
fn check_place(
    path: &Path,
    files: &mut Vec<(u64, u64)>,
    above: Option<&Layer>,
) -> Result<(), Error> {
    let refuse = |problem: String| match above {
        Some(above) => Err(above.unsupported(problem)),
        None => Ok(()),
    };
    if files.len() >= CHAIN_MAX {
        return refuse(format!(
            "is the end of a chain of {CHAIN_MAX} files, and goes on"
        ));
    }
    let Ok(metadata) = std::fs::metadata(path) else {
        // Opening it says what is wrong with it.
        return Ok(());
    };
    let file = identity(&metadata);
    if files.contains(&file) {
        let path = path.display();
        return refuse(format!(
            "its backing file '{path}' stands on this image itself"
        ));
    }
    files.push(file);
    Ok(())
}

/// What tells files apart, whatever they are called.
fn identity(metadata: &Metadata) -> (u64, u64) {
    if metadata.file_type().is_block_device() {
        // No file system has the device number 0.
        (0, metadata.rdev())
    } else {
        (metadata.dev(), metadata.ino())
    }
}

/// The format of a file that nobody told.
async fn guess(
    storage: &FileStorage,
    above: Option<&Layer>,
    recognize: bool,
) -> Result<Format, Error> {
    let Some(looks_like) = looks_like(storage).await? else {
        return Ok(Format::Raw);
    };
    let path = storage.path();
    Err(match above {
        None if recognize && looks_like == LOOKS_LIKE_QCOW2 => return Ok(Format::Qcow2),
        None => Error::FormatNeeded {
            path: path.to_owned(),
            looks_like,
        },
        Some(above) => {
            let path = path.display();
            above.unsupported(format!(
                "does not record the format of its backing file '{path}', which looks like \
                 {looks_like}; record it (image rebase -u -b FILE -F FORMAT)"
            ))
        }
    })
}
