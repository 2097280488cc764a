//! Images that can stand on another, whatever their format.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result, anyhow, bail};
use disk::flat::format::BaseName;
use disk::flat::{Base, Flat};
use disk::qcow2::Qcow2;
use disk::{Disk, FileStorage, Format, OpenOptions};

use super::copy::flat_unit_bytes;

/// A backing file to be.
#[derive(Clone, Copy)]
pub(super) struct Backing<'a> {
    pub(super) name: &'a str,
    pub(super) format: Format,
    /// How large its disk is, if anybody has looked.
    pub(super) size_bytes: Option<u64>,
    /// What its server calls it, in the version that was opened.
    pub(super) version: Option<&'a str>,
}

/// An open image that can stand on another.
pub(super) enum Overlay {
    Qcow2(Rc<Qcow2<FileStorage>>),
    Flat(Rc<Flat<FileStorage>>),
}

impl Backing<'_> {
    /// As a flat image names it.
    fn base(self) -> Result<Base> {
        let name = self.name;
        let size_bytes = self
            .size_bytes
            .with_context(|| format!("'{name}': nobody has looked how large it is"))?;
        Ok(Base {
            name: BaseName {
                name: name.to_owned(),
                format: self.format.to_string(),
                version: self.version.map(str::to_owned),
            },
            size_bytes,
        })
    }
}

impl Overlay {
    /// Opens the image at `file`, as `options` say.
    pub(super) async fn open(file: &Path, options: OpenOptions) -> Result<Self> {
        let chain = options.chain().await?;
        Ok(match chain.layers()[0].format {
            Format::Qcow2 => Self::Qcow2(chain.into_qcow2().await?),
            Format::Flat => Self::Flat(chain.into_flat().await?),
            Format::Raw => {
                let file = file.display();
                bail!("{file}: is a raw image, which stands on no other; this needs qcow2 or flat")
            }
        })
    }

    /// The disk.
    pub(super) fn disk(&self) -> Rc<dyn Disk> {
        match self {
            Self::Qcow2(image) => Rc::clone(image) as Rc<dyn Disk>,
            Self::Flat(image) => Rc::clone(image) as Rc<dyn Disk>,
        }
    }

    /// The unit in which it takes space.
    pub(super) fn unit_bytes(&self) -> u64 {
        match self {
            Self::Qcow2(image) => image.header().layout.subcluster_bytes(),
            Self::Flat(image) => flat_unit_bytes(image),
        }
    }

    /// Refuses what would change the base of snapshots in a flat image at `file`.
    pub(super) fn refuse_with_snapshots(&self, file: &Path) -> Result<()> {
        match self {
            Self::Flat(image) if !image.snapshots().is_empty() => Err(has_snapshots(file)),
            _ => Ok(()),
        }
    }

    /// Gives the disk another size.
    pub(super) async fn resize(&self, size_bytes: u64) -> Result<()> {
        match self {
            Self::Qcow2(image) => image.resize(size_bytes).await?,
            Self::Flat(image) => image.resize(size_bytes).await?,
        }
        Ok(())
    }

    /// Takes everything out of it, so that it reads as its backing file does.
    pub(super) async fn empty(&self) -> Result<()> {
        match self {
            Self::Qcow2(image) => image.empty().await?,
            Self::Flat(image) => image.empty().await?,
        }
        Ok(())
    }

    /// Whether it records how large its backing file is.
    pub(super) fn records_backing_size(&self) -> bool {
        matches!(self, Self::Flat(_))
    }

    /// Names another backing file.
    pub(super) async fn set_backing(&self, backing: Option<Backing<'_>>) -> Result<()> {
        match self {
            Self::Qcow2(image) => {
                let backing = backing.map(|new| (new.name.to_owned(), new.format.to_string()));
                image.set_backing(backing).await?;
            }
            Self::Flat(image) => {
                image
                    .set_base(backing.map(Backing::base).transpose()?)
                    .await?;
            }
        }
        Ok(())
    }

    /// Records how large its backing file has become, if it records that. What it reads as stays.
    pub(super) async fn note_backing_size(&self, size_bytes: u64) -> Result<()> {
        let Self::Flat(image) = self else {
            return Ok(());
        };
        let header = image.header();
        if let Some(name) = header.base.filter(|_| header.base_bytes != size_bytes) {
            image.set_base(Some(Base { name, size_bytes })).await?;
        }
        Ok(())
    }
}

/// What is wrong with a flat image whose base is to become another, or to change.
pub(super) fn has_snapshots(file: &Path) -> anyhow::Error {
    anyhow!(
        "{}: has snapshots, which stand on its base as well; delete them first (microvm image \
         snapshot -d)",
        file.display()
    )
}
