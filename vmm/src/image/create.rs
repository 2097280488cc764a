//! `image create`: new images.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use disk::Format;

use super::arguments::ProgressArguments;
use super::flat_base::FlatBase;
use super::interrupt::Interrupt;
use super::new_image::NewImage;
use super::options::{ImageOptions, Preallocation};
use super::progress::Progress;
use crate::cli::size::parse_size;

/// The unit of a disk's size.
const SECTOR_BYTES: u64 = 512;

/// The arguments of `image create`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the new image: raw, qcow2 or flat
    #[arg(short = 'f', long = "format", value_name = "FMT", default_value_t = Format::Raw)]
    format: Format,

    #[command(flatten)]
    backing: BackingArguments,

    /// Do not open the backing file, which need not be there
    #[arg(short = 'u', long = "unsafe")]
    unchecked: bool,

    /// Options of the format, like `cluster_size=64K` (qcow2), `block_size=64K` or `scan=full`,
    /// `holes` or `off` (flat: how to look for zeros in the backing file, which need no copies), or
    /// `compact=on` (flat: takes space on a block device only for what is written)
    #[arg(short = 'o', long = "options", value_name = "NAME=VALUE,...")]
    options: Vec<String>,

    #[command(flatten)]
    progress: ProgressArguments,

    /// The new image; a file that is there is replaced
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Size of the disk: 512M, 4G, ... [default: that of the backing file]
    #[arg(value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
}

/// What a new image stands on.
#[derive(Args, Clone, Debug)]
pub(crate) struct BackingArguments {
    /// Backing file, relative to the directory of the image
    #[arg(short = 'b', visible_short_alias = 'B', long, value_name = "FILE")]
    backing: Option<String>,

    /// Format of the backing file: raw, qcow2 or flat
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<Format>,
}

impl BackingArguments {
    /// Adds them to what `-o` says.
    pub(super) fn apply(&self, options: &mut ImageOptions) -> Result<()> {
        if let Some(backing) = &self.backing {
            options.backing_file = Some(backing.clone());
        }
        if let Some(format) = self.backing_format {
            options.backing_format = Some(format);
        }
        match (
            options.format,
            &options.backing_file,
            options.backing_format,
        ) {
            (Format::Raw, Some(_), _) => {
                bail!("a raw image has no backing file; give -f qcow2 or -f flat")
            }
            (Format::Flat, Some(_), _) if options.preallocation() == Preallocation::Full => bail!(
                "-o preallocation=full: the zeros would hide the backing file; falloc gives the \
                 space without"
            ),
            (_, Some(file), None) => {
                bail!(
                    "the format of the backing file '{file}' must be given: -F raw, -F qcow2 or -F flat"
                )
            }
            (_, None, Some(_)) => bail!("-F is the format of a backing file, but there is none"),
            _ => Ok(()),
        }
    }
}

/// Makes the image.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let mut options = ImageOptions::parse(arguments.format, &arguments.options)?;
    arguments.backing.apply(&mut options)?;
    let backing = if arguments.unchecked {
        None
    } else {
        options.open_backing(&arguments.file).await?
    };
    let backing_bytes = backing
        .as_ref()
        .map(|backing| backing.properties().size_bytes);
    let size = arguments.size.or(options.size_bytes).or(backing_bytes);
    let size = size.context("the size of the disk is missing: microvm image create FILE SIZE")?;
    let size = size
        .checked_next_multiple_of(SECTOR_BYTES)
        .context("a disk is smaller than 16 EiB")?;
    let interrupt = Interrupt::install()?;
    let base = backing.as_deref();
    let base = FlatBase::look(&options, base, size, arguments.progress, &interrupt).await?;
    let image = NewImage::create(&arguments.file, &options, size, base.as_ref()).await?;
    let progress = Progress::new(arguments.progress, size);
    image
        .preallocate(options.preallocation(), &progress, &interrupt)
        .await
        .and_then(|()| interrupt.check())
        .with_context(|| format!("{}: not made", arguments.file.display()))?;
    image.finish()
}
