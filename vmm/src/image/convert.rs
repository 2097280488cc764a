//! `image convert`: copies of images.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use disk::{Extent, Format, OpenOptions};

use super::arguments::{ProgressArguments, read_options};
use super::copy::{Before, Copy, Target};
use super::create::BackingArguments;
use super::interrupt::Interrupt;
use super::new_image::NewImage;
use super::options::ImageOptions;
use super::progress::Progress;
use super::walk::Kind;
use crate::cli::parse_size;

/// The arguments of `image convert`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the source: raw or qcow2
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    source_format: Option<Format>,

    /// Open a source that is in use, whose content may be changing
    #[arg(short = 'U', long)]
    force_share: bool,

    /// Format of the target: raw or qcow2
    #[arg(short = 'O', long, value_name = "FMT", default_value_t = Format::Raw)]
    target_format: Format,

    /// Compress the target's clusters
    #[arg(short = 'c', long)]
    compress: bool,

    #[command(flatten)]
    backing: BackingArguments,

    /// Options of the target's format, such as cluster_size=64K
    #[arg(short = 'o', long = "options", value_name = "NAME=VALUE,...")]
    options: Vec<String>,

    /// Write into a target that is there already
    #[arg(short = 'n', long, conflicts_with_all = ["options", "backing", "compress"])]
    no_create: bool,

    /// Zeros in a row that become a hole; 0 for none, and a target with all its space
    #[arg(short = 'S', long, value_name = "SIZE", default_value = "4K", value_parser = parse_size)]
    sparse: u64,

    /// How many pieces are on their way at a time
    #[arg(short = 'm', long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..))]
    in_flight: u8,

    #[command(flatten)]
    progress: ProgressArguments,

    /// The source
    #[arg(value_name = "FILE")]
    source: PathBuf,

    /// The target; a file that is there is replaced once the copy is complete
    #[arg(value_name = "TARGET")]
    target: PathBuf,
}

/// Copies the source.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let options = read_options(&arguments.source, arguments.source_format);
    let source = options.share_all(arguments.force_share).open().await?;
    let size = source.properties().size_bytes;
    let interrupt = Interrupt::install()?;
    let progress = Progress::new(arguments.progress, size);
    let copy = async |target: &Target| {
        let copy = Copy {
            source: &*source,
            target,
            sparse_bytes: Some(arguments.sparse / 512 * 512).filter(|bytes| *bytes > 0),
            kind,
            in_flight: arguments.in_flight.into(),
            progress: &progress,
            interrupt: &interrupt,
        };
        copy.run().await
    };
    if arguments.no_create {
        let target = arguments.existing_target(size).await?;
        copy(&target).await?;
        target.disk.close().await?;
    } else {
        let options = arguments.image_options()?;
        let image = NewImage::create(&arguments.target, &options, size).await?;
        image
            .preallocate(options.preallocation, &progress, &interrupt)
            .await?;
        let target = arguments.new_target(&image, &options).await?;
        copy(&target).await?;
        target.disk.close().await?;
        image.finish()?;
    }
    Ok(source.close().await?)
}

fn kind(extent: &Extent) -> Kind {
    if extent.content.is_zero() {
        Kind::Zero
    } else {
        Kind::Data
    }
}

impl Arguments {
    fn image_options(&self) -> Result<ImageOptions> {
        let mut options = ImageOptions::parse(self.target_format, &self.options)?;
        self.backing.apply(&mut options)?;
        if options.size_bytes.is_some() {
            bail!("-o size: the target has the size of the source");
        }
        if self.compress && options.format == Format::Raw {
            bail!("-c: a raw image has nothing to compress; give -O qcow2");
        }
        Ok(options)
    }

    async fn new_target(&self, image: &NewImage, options: &ImageOptions) -> Result<Target> {
        let mut target = Target::open(image.options(), self.target_format, self.compress).await?;
        target.before = match options.open_backing(&self.target).await? {
            Some(backing) => Before::Backing(backing),
            None if image.is_blank() => Before::Zeros,
            None => Before::Anything,
        };
        Ok(target)
    }

    async fn existing_target(&self, size: u64) -> Result<Target> {
        let options = OpenOptions::new(&self.target).format(self.target_format);
        let target = Target::open(options, self.target_format, false).await?;
        let target_size = target.disk.properties().size_bytes;
        if target_size < size {
            let path = self.target.display();
            bail!("{path}: has {target_size} bytes, too few for the {size} of the source");
        }
        Ok(target)
    }
}
