//! Images in the making.

use std::path::Path;

use anyhow::{Result, bail};
use disk::{Disk as _, FileStorage, Format, OpenOptions, Order, Storage as _, flat, qcow2};

use super::flat_base::FlatBase;
use super::interrupt::Interrupt;
use super::new_file::NewFile;
use super::options::{ImageOptions, Preallocation, beside};
use super::preallocate::Preallocate;
use super::progress::Progress;

/// An image that has no name yet, with its data file.
pub(super) struct NewImage {
    image: NewFile,
    data: Option<NewFile>,
    format: Format,
    size_bytes: u64,
    /// Where its file has the disk's bytes, if they lie there as the disk has them.
    data_offset: u64,
    /// Whether it reads as zeros, but for what its backing file holds.
    blank: bool,
}

impl NewImage {
    /// Makes an image of `size_bytes` without any data, to be called `path`.
    pub(super) async fn create(
        path: &Path,
        options: &ImageOptions,
        size_bytes: u64,
        base: Option<&FlatBase>,
    ) -> Result<Self> {
        let image = NewFile::create(path)?;
        let data = match &options.data_file {
            Some(name) => Some(NewFile::create(&beside(path, name))?),
            None => None,
        };
        let storage = image.options().open()?;
        let blank = options.format != Format::Raw || image.is_file();
        let mut data_offset = 0;
        match options.format {
            Format::Raw => set_size(&image, &storage, size_bytes).await?,
            Format::Qcow2 => {
                let options = options.qcow2(size_bytes)?;
                qcow2::create(&storage, &options).await?;
            }
            Format::Flat => {
                let options = options.flat(size_bytes, base.map(FlatBase::size_bytes))?;
                let zero_blocks = base.and_then(FlatBase::zero_blocks);
                let header = flat::create(&storage, &options, zero_blocks).await?;
                data_offset = header.data_offset;
            }
        }
        storage.sync().await?;
        storage.close();
        if let Some(data) = &data {
            let storage = data.options().open()?;
            set_size(data, &storage, size_bytes).await?;
            storage.close();
        }
        Ok(Self {
            image,
            data,
            format: options.format,
            size_bytes,
            data_offset,
            blank,
        })
    }

    /// How to open it, with its backing files. Until it is whole, nobody else sees it: a journal
    /// would only leave a hole in it.
    pub(super) fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new(self.image.path())
            .name(self.image.place())
            .format(self.format);
        if self.format != Format::Raw {
            options = options.order(Order::Ordered);
        }
        match &self.data {
            Some(data) => options.data_file(data.path()),
            None => options,
        }
    }

    /// Whether it reads as zeros, but for what its backing file holds.
    pub(super) fn is_blank(&self) -> bool {
        self.blank
    }

    /// Gives it its space, as far as that is asked for.
    pub(super) async fn preallocate(
        &self,
        how: Preallocation,
        progress: &Progress,
        interrupt: &Interrupt,
    ) -> Result<()> {
        if how == Preallocation::Off {
            return Ok(());
        }
        // What the backing file holds keeps its place there.
        let options = self.options();
        let preallocate = Preallocate {
            range: 0..self.size_bytes,
            how,
            progress,
            interrupt,
        };
        if self.format != Format::Qcow2 {
            let path = self.image.path();
            return preallocate.in_order(path, self.data_offset, options).await;
        }
        let image = options.open_qcow2().await?;
        preallocate.qcow2(&image).await?;
        Ok(image.close().await?)
    }

    /// Gives its name to it, and to its data file first.
    pub(super) fn finish(self) -> Result<()> {
        if let Some(data) = self.data {
            data.finish()?;
        }
        self.image.finish()
    }
}

/// Makes a raw image's file as long as the disk; a block device must be so already.
async fn set_size(file: &NewFile, storage: &FileStorage, size_bytes: u64) -> Result<()> {
    let name = file.place().display();
    if size_bytes == 0 || !size_bytes.is_multiple_of(512) {
        bail!("{name}: {size_bytes} bytes is not a disk's size: it must be a multiple of 512");
    }
    if file.is_file() {
        return Ok(storage.set_len(size_bytes).await?);
    }
    let available = storage.size_bytes();
    if available < size_bytes {
        bail!("{name}: has {available} bytes, too few for a disk of {size_bytes}");
    }
    Ok(())
}
