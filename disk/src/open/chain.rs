//! An image and the backing files that it stands on, one below the other.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Format, Layer, OpenOptions};
use crate::flat::{Copying, Flat};
use crate::qcow2::Qcow2;
use crate::qcow2::format::Header;
use crate::{Disk, Error, FileStorage, is_remote};

/// The most files in a chain; each keeps a descriptor or two open.
pub const CHAIN_MAX: usize = 200;

/// The files of an image, opened and locked: first the image, then its backing file, and so on.
pub struct Chain {
    layers: Vec<Layer>,
    options: OpenOptions,
    /// Nobody gave the format of the image, which names other files all the same.
    guessed: bool,
}

impl Chain {
    pub(super) async fn open(options: OpenOptions) -> Result<Self, Error> {
        let mut layers: Vec<Layer> = Vec::new();
        let mut places = Vec::new();
        let mut guessed = false;
        let mut next = Some((options.path.clone(), options.format));
        while let Some((path, format)) = next {
            check_place(&path, &mut places, layers.last())?;
            let (layer, guess) = Layer::open(path, format, layers.last(), &options).await?;
            guessed |= guess;
            if let Some(above) = layers.last() {
                above.check_version(&layer)?;
            }
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
        let format = image.format;
        if format != Format::Flat && self.options.copying != Copying::default() {
            let problem = format!("is a {format} image; only flat ones copy from their base");
            return Err(image.unsupported(problem));
        }
        if format != Format::Flat && self.options.grow.is_some() {
            let problem =
                format!("is a {format} image; only a compact flat one has its device made larger");
            return Err(image.unsupported(problem));
        }
        if format == Format::Raw && self.options.snapshot.is_some() {
            let problem = format!("is a {format} image, which has no snapshots");
            return Err(image.unsupported(problem));
        }
        match format {
            _ if image.storage.is_remote() => self.remote(image, backing).await,
            Format::Qcow2 => Ok(self.image(image, backing).await?),
            Format::Raw => image.into_disk(None, None, &self.options).await,
            Format::Flat => Ok(self.flat(image, backing).await?),
        }
    }

    /// Makes a disk of them that must be a qcow2 image.
    pub async fn into_qcow2(mut self) -> Result<Rc<Qcow2<FileStorage>>, Error> {
        let backing = self.backing().await?;
        let image = self.layers.remove(0);
        match image.format {
            Format::Qcow2 => self.image(image, backing).await,
            format => {
                Err(image.unsupported(format!("is a {format} image; this needs a qcow2 image")))
            }
        }
    }

    /// Makes a disk of them that must be a flat image.
    pub async fn into_flat(mut self) -> Result<Rc<Flat<FileStorage>>, Error> {
        let backing = self.backing().await?;
        let image = self.layers.remove(0);
        match image.format {
            Format::Flat => self.flat(image, backing).await,
            format => Err(image.unsupported(format!("is a {format} image; this needs a flat one"))),
        }
    }

    async fn remote(
        &self,
        image: Layer,
        backing: Option<Rc<dyn Disk>>,
    ) -> Result<Rc<dyn Disk>, Error> {
        if self.options.data_file.is_some() {
            return Err(image.unsupported("is far away, and has no data file here".into()));
        }
        let snapshot = self.options.snapshot.clone();
        image.into_disk(backing, snapshot, &self.options).await
    }

    async fn flat(
        &self,
        image: Layer,
        base: Option<Rc<dyn Disk>>,
    ) -> Result<Rc<Flat<FileStorage>>, Error> {
        if self.options.data_file.is_some() {
            return Err(image.unsupported("has no data file, but data-file= was given".into()));
        }
        let snapshot = self.options.snapshot.clone();
        image.into_flat(base, snapshot, &self.options).await
    }

    /// Makes a disk of all but the image itself.
    async fn backing(&mut self) -> Result<Option<Rc<dyn Disk>>, Error> {
        let mut below = None;
        while self.layers.len() > 1 {
            if let Some(layer) = self.layers.pop() {
                below = Some(layer.into_disk(below, None, &self.options).await?);
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
        let snapshot = self.options.snapshot.clone();
        image
            .into_qcow2(backing, data_path, snapshot, &self.options)
            .await
    }
}

/// What tells layers apart, whatever they are called.
#[derive(PartialEq, Eq)]
enum Place {
    /// The device and the number of a file.
    File(u64, u64),
    Url(PathBuf),
}

/// A loop must be found before the file is opened: it may be locked by us already.
fn check_place(path: &Path, places: &mut Vec<Place>, above: Option<&Layer>) -> Result<(), Error> {
    let refuse = |problem: String| match above {
        Some(above) => Err(above.unsupported(problem)),
        None => Ok(()),
    };
    if places.len() >= CHAIN_MAX {
        return refuse(format!(
            "is the end of a chain of {CHAIN_MAX} files, and goes on"
        ));
    }
    let place = if is_remote(path) {
        Place::Url(path.to_owned())
    } else {
        let Ok(metadata) = std::fs::metadata(path) else {
            // Opening it says what is wrong with it.
            return Ok(());
        };
        file_place(&metadata)
    };
    if places.contains(&place) {
        let path = path.display();
        return refuse(format!(
            "its backing file '{path}' stands on this image itself"
        ));
    }
    places.push(place);
    Ok(())
}

fn file_place(metadata: &Metadata) -> Place {
    if metadata.file_type().is_block_device() {
        // No file system has the device number 0.
        Place::File(0, metadata.rdev())
    } else {
        Place::File(metadata.dev(), metadata.ino())
    }
}
