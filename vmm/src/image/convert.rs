//! `image convert`: copies of images.

use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use disk::{Disk, Format, OpenOptions};

use super::arguments::{ProgressArguments, read_options};
use super::copy::{Before, Copy, Target};
use super::create::BackingArguments;
use super::flat_base::FlatBase;
use super::identity::is_same_file;
use super::interrupt::Interrupt;
use super::new_image::NewImage;
use super::options::ImageOptions;
use super::progress::Progress;
use super::walk::{Kind, Piece};
use crate::cli::size::parse_size;

/// The arguments of `image convert`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the source: raw, qcow2 or flat
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    source_format: Option<Format>,

    /// Open a source that is in use, whose content may be changing
    #[arg(short = 'U', long)]
    force_share: bool,

    /// Format of the target: raw, qcow2 or flat
    #[arg(short = 'O', long, value_name = "FMT", default_value_t = Format::Raw)]
    target_format: Format,

    /// Compress the target's clusters
    #[arg(short = 'c', long)]
    compress: bool,

    #[command(flatten)]
    backing: BackingArguments,

    /// Options of the target's format, like `cluster_size=64K`
    #[arg(short = 'o', long = "options", value_name = "NAME=VALUE,...")]
    options: Vec<String>,

    /// Write into a target that is there already
    #[arg(short = 'n', long, conflicts_with_all = ["options", "backing", "compress"])]
    no_create: bool,

    /// Zeros in a row that become a hole; 0 for none, and a target with all its space
    #[arg(short = 'S', long = "sparse-size", value_name = "SIZE", default_value = "4K", value_parser = parse_size)]
    sparse: u64,

    /// How many pieces are on their way at a time
    #[arg(short = 'm', long = "parallel", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..))]
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
    if is_same_file(&arguments.source, &arguments.target) {
        let target = arguments.target.display();
        bail!("{target}: source and target are the same file");
    }
    let options = read_options(&arguments.source, arguments.source_format);
    let source = options.share_all(arguments.force_share).open().await?;
    if arguments.no_create {
        arguments.fill(&*source).await?;
    } else {
        let target = arguments.target.display();
        let made = arguments.make(&*source).await;
        made.with_context(|| format!("{target}: not made"))?;
    }
    Ok(source.close().await?)
}

fn kind(piece: &Piece) -> Kind {
    if piece.extent.content.is_zero() {
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
        if self.compress && options.format != Format::Qcow2 {
            let format = options.format;
            bail!("-c: a {format} image has nothing to compress; give -O qcow2");
        }
        Ok(options)
    }

    /// Copies into a new image.
    async fn make(&self, source: &dyn Disk) -> Result<()> {
        let mut options = self.image_options()?;
        let size = source.properties().size_bytes;
        let interrupt = Interrupt::install()?;
        let progress = Progress::new(self.progress, size);
        let backing = options.open_backing(&self.target).await?;
        let base = backing.as_deref();
        let base = FlatBase::look(&options, base, size, self.progress, &interrupt).await?;
        let image = NewImage::create(&self.target, &options, size, base.as_ref()).await?;
        let how = options.preallocation();
        image.preallocate(how, &progress, &interrupt).await?;
        progress.restart();
        let target = self.new_target(&image, backing).await?;
        self.copy(source, &target, &progress, &interrupt).await?;
        target.disk.close().await?;
        image.finish()
    }

    /// Copies into an image that is there.
    async fn fill(&self, source: &dyn Disk) -> Result<()> {
        let size = source.properties().size_bytes;
        let target = self.existing_target(size).await?;
        let interrupt = Interrupt::install()?;
        let progress = Progress::new(self.progress, size);
        let copied = self.copy(source, &target, &progress, &interrupt).await;
        let closed = target.disk.close().await;
        copied.with_context(|| {
            let target = self.target.display();
            format!("{target}: holds a part of the source now")
        })?;
        Ok(closed?)
    }

    async fn copy(
        &self,
        source: &dyn Disk,
        target: &Target,
        progress: &Progress,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let copy = Copy {
            source,
            target,
            sparse_bytes: Some(self.sparse / 512 * 512).filter(|bytes| *bytes > 0),
            kind: &kind,
            reads_throughout: true,
            in_flight: self.in_flight.into(),
            progress,
            interrupt,
        };
        copy.run().await
    }

    async fn new_target(&self, image: &NewImage, backing: Option<Rc<dyn Disk>>) -> Result<Target> {
        let mut target = Target::open(image.options(), self.target_format, self.compress).await?;
        target.before = match backing {
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
