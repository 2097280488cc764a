//! `image resize`: another size of the disk.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use disk::qcow2::format::AutoclearFeatures;
use disk::{Chain, Disk as _, Format, Layer, OpenOptions, Storage as _};

use super::arguments::{ProgressArguments, write_options};
use super::interrupt::Interrupt;
use super::options::Preallocation;
use super::overlay::Overlay;
use super::preallocate::Preallocate;
use super::progress::Progress;
use crate::cli::size::parse_size;

/// The arguments of `image resize`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the image: raw, qcow2 or flat
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    format: Option<Format>,

    /// Make the disk smaller, and lose what is past its new end
    #[arg(long)]
    shrink: bool,

    /// How much of what is added gets its space at once
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    preallocation: Preallocation,

    #[command(flatten)]
    progress: ProgressArguments,

    /// The image
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The new size, or with + or - how much larger or smaller: +10G
    #[arg(value_name = "[+|-]SIZE", allow_hyphen_values = true)]
    size: NewSize,
}

/// A size, or the way from the one that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NewSize {
    Absolute(u64),
    Larger(u64),
    Smaller(u64),
}

impl FromStr for NewSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(size) = text.strip_prefix('+') {
            return Ok(Self::Larger(parse_size(size)?));
        }
        if let Some(size) = text.strip_prefix('-') {
            return Ok(Self::Smaller(parse_size(size)?));
        }
        Ok(Self::Absolute(parse_size(text)?))
    }
}

impl NewSize {
    /// The size in bytes, if there can be one.
    fn of(self, old: u64) -> Option<u64> {
        let size = match self {
            Self::Absolute(size) => Some(size),
            Self::Larger(by) => old.checked_add(by),
            Self::Smaller(by) => old.checked_sub(by),
        };
        size?.checked_next_multiple_of(512)
    }
}

/// Resizes the image.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let options = write_options(&arguments.file, arguments.format);
    let chain = look(&options).await?;
    let image = &chain.layers()[0];
    let old = image.virtual_size_bytes();
    let new = arguments.new_size(old)?;
    arguments.check_preallocation(image)?;
    let preallocate = Preallocate {
        range: old..new.max(old),
        how: preallocation(image, arguments.preallocation),
        progress: &Progress::new(arguments.progress, new.saturating_sub(old)),
        interrupt: &Interrupt::install()?,
    };
    let (format, data_offset) = (
        image.format,
        image.flat.as_ref().map(|flat| flat.data_offset),
    );
    if format == Format::Raw {
        image.storage.set_len(new).await?;
        image.storage.sync().await?;
    }
    image.storage.close();
    let done = match format {
        Format::Qcow2 => {
            let image = options.open_qcow2().await?;
            image.resize(new).await?;
            let done = preallocate.qcow2(&image).await;
            let closed = image.close().await;
            done.and(Ok(closed?))
        }
        Format::Raw => {
            preallocate
                .in_order(&arguments.file, 0, options.format(format))
                .await
        }
        Format::Flat => {
            let image = options.clone().open_flat().await?;
            image.resize(new).await?;
            image.close().await?;
            let offset = data_offset.unwrap_or_default();
            preallocate.in_order(&arguments.file, offset, options).await
        }
    };
    done.with_context(|| arguments.resized(new))
}

/// Opens the image without its backing file for a look at its size. That of one that was not closed
/// may be in its journal, which is brought home first.
async fn look(options: &OpenOptions) -> Result<Chain> {
    let options = options.clone().layers_max(1);
    let chain = options.clone().chain().await?;
    let image = &chain.layers()[0];
    if !image.is_unclosed() {
        return Ok(chain);
    }
    image.storage.close();
    drop(chain);
    options.clone().open().await?.close().await?;
    Ok(options.chain().await?)
}

impl Arguments {
    /// What has been done where the preallocation has not.
    fn resized(&self, new: u64) -> String {
        format!(
            "{}: the disk has {new} bytes now, but what was added lacks a part of its space",
            self.file.display()
        )
    }

    /// Refuses what the format cannot have.
    fn check_preallocation(&self, image: &Layer) -> Result<()> {
        let format = image.format;
        let chunks = image.flat.as_ref().and_then(|flat| flat.chunks.as_ref());
        if chunks.is_some() && self.preallocation != Preallocation::Off {
            bail!("--preallocation: a compact image takes its space when something is written");
        }
        if format != Format::Qcow2 && self.preallocation == Preallocation::Metadata {
            bail!(
                "--preallocation metadata: a {format} image has no metadata to preallocate; there \
                 are off, falloc and full"
            );
        }
        Ok(())
    }

    /// The size of a disk that has `old` bytes, once it is known that this is meant.
    fn new_size(&self, old: u64) -> Result<u64> {
        let file = self.file.display();
        let new = self
            .size
            .of(old)
            .with_context(|| format!("{file}: a disk of {old} bytes cannot be resized so far"))?;
        if new < old && !self.shrink {
            bail!(
                "{file}: from {old} to {new} bytes, what is past the new end would be lost; \
                 give --shrink if that is meant"
            );
        }
        if new < old && self.preallocation != Preallocation::Off {
            bail!("--preallocation is for what is added, but nothing is");
        }
        Ok(new)
    }
}

/// A data file that is to read as the disk does needs the tables at once.
fn preallocation(image: &Layer, asked: Preallocation) -> Preallocation {
    let features = image.header.as_ref().map_or(0, |header| header.autoclear.0);
    match asked {
        Preallocation::Off if features & AutoclearFeatures::DATA_FILE_RAW != 0 => {
            Preallocation::Metadata
        }
        asked => asked,
    }
}

/// Makes the disk of an image at least `size_bytes` long.
pub(super) async fn grow_to(options: OpenOptions, size_bytes: u64) -> Result<()> {
    let chain = look(&options).await?;
    let image = &chain.layers()[0];
    let grows = image.virtual_size_bytes() < size_bytes;
    if grows && image.format == Format::Raw {
        image.storage.set_len(size_bytes).await?;
    }
    image.storage.close();
    if grows && image.format != Format::Raw {
        let image = Overlay::open(&image.path, options).await?;
        image.resize(size_bytes).await?;
        image.disk().close().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_absolute_or_relative() {
        let size = |text: &str, old| text.parse::<NewSize>().unwrap().of(old);
        assert_eq!(size("1M", 512), Some(1 << 20));
        assert_eq!(size("+1K", 512), Some(1536));
        assert_eq!(size("-512", 1024), Some(512));
        assert_eq!(size("1000", 0), Some(1024));
        assert_eq!(size("-1K", 512), None);
        assert_eq!(size("+1", u64::MAX), None);
        for text in ["", "+", "-", "+-1", "1.5", "much"] {
            assert!(text.parse::<NewSize>().is_err(), "{text}");
        }
    }
}
