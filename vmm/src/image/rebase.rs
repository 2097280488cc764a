//! `image rebase`: another backing file.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use disk::{Content, Disk, Format, OpenOptions};

use super::arguments::{ProgressArguments, read_options, write_options};
use super::copy::{Before, Copy, Target};
use super::identity::is_same_file;
use super::interrupt::Interrupt;
use super::options::beside;
use super::overlay::{Backing, Overlay};
use super::progress::Progress;
use super::walk::{Kind, Piece};

/// How many pieces are on their way at a time.
const IN_FLIGHT: usize = 16;

/// The arguments of `image rebase`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the image: qcow2 or flat
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    format: Option<Format>,

    /// New backing file, relative to the directory of the image; "" for none
    #[arg(short = 'b', long, value_name = "FILE")]
    backing: String,

    /// Format of the new backing file: raw, qcow2 or flat
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<Format>,

    /// Change the name only: the new backing file reads as the old one does. A flat image also
    /// records its size
    #[arg(short = 'u', long = "unsafe")]
    unchecked: bool,

    #[command(flatten)]
    progress: ProgressArguments,

    /// The image
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Rebases the image.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let (file, mut backing) = (&arguments.file, arguments.backing()?);
    let mut options = write_options(file, arguments.format);
    if arguments.unchecked {
        options = options.layers_max(1);
    }
    let image = Overlay::open(file, options).await?;
    refuse_without_base(file, &image, backing)?;
    image.refuse_with_snapshots(file)?;
    let new = match &backing {
        Some(backing) if !arguments.unchecked || image.records_backing_size() => {
            Some(open_new(file, backing).await?)
        }
        _ => None,
    };
    if let (Some(backing), Some((new, version))) = (&mut backing, &new) {
        backing.size_bytes = Some(new.properties().size_bytes);
        backing.version = version.as_deref();
    }
    if !arguments.unchecked {
        let new = new.as_ref().map(|(new, _)| Rc::clone(new));
        let merged = merge(&image, new, arguments.progress).await;
        merged.with_context(|| {
            let file = file.display();
            format!("{file}: reads as before, and stands on what it stood on")
        })?;
    }
    image.set_backing(backing).await?;
    Ok(image.disk().close().await?)
}

/// Nothing of a flat image that stands alone would ever come from another.
fn refuse_without_base(file: &Path, image: &Overlay, new: Option<Backing<'_>>) -> Result<()> {
    if let (Overlay::Flat(image), Some(new)) = (image, new)
        && image.header().base.is_none()
    {
        let (file, name) = (file.display(), new.name);
        bail!(
            "{file}: stands alone: it holds all of its disk, and nothing would come from '{name}'; \
             microvm image convert -O flat -B makes a copy of it that stands on that"
        );
    }
    Ok(())
}

/// Writes into the image what it would read differently on its new backing file.
async fn merge(
    image: &Overlay,
    new: Option<Rc<dyn Disk>>,
    progress: ProgressArguments,
) -> Result<()> {
    let disk = image.disk();
    let target = Target {
        disk: Rc::clone(&disk),
        compressed: None,
        unit_bytes: image.unit_bytes(),
        before: new.map_or(Before::Zeros, Before::Backing),
    };
    let copy = Copy {
        source: &*disk,
        target: &target,
        sparse_bytes: Some(1),
        kind: &kind,
        reads_throughout: true,
        in_flight: IN_FLIGHT,
        progress: &Progress::new(progress, disk.properties().size_bytes),
        interrupt: &Interrupt::install()?,
    };
    let copied = copy.run().await;
    if copied.is_err() {
        disk.close().await?;
    }
    copied
}

impl Arguments {
    /// The name and format of the new backing file.
    fn backing(&self) -> Result<Option<Backing<'_>>> {
        match (self.backing.as_str(), self.backing_format) {
            ("", None) => Ok(None),
            ("", Some(_)) => bail!("-F is the format of a backing file, but there is to be none"),
            (name, Some(format)) => Ok(Some(Backing {
                name,
                format,
                size_bytes: None,
                version: None,
            })),
            (name, None) => {
                bail!(
                    "the format of the backing file '{name}' must be given: -F raw, -F qcow2 or -F flat"
                )
            }
        }
    }
}

/// Opens what is to be the backing file of the image at `file`, and says what its server calls it.
async fn open_new(file: &Path, backing: &Backing<'_>) -> Result<(Rc<dyn Disk>, Option<String>)> {
    let Backing { name, format, .. } = *backing;
    let path = beside(file, name);
    // A loop would be locked by ourselves.
    let look = read_options(&path, Some(format)).share_all(true);
    let chain = look.chain().await?;
    let mut paths = chain.layers().iter().map(|layer| &layer.path);
    if paths.any(|path| is_same_file(path, file)) {
        bail!("'{}' stands on {} itself", path.display(), file.display());
    }
    drop(chain);
    let options = OpenOptions::new(&path).format(format).read_only(true);
    let chain = options.chain().await?;
    let version = chain.layers()[0].version().map(str::to_owned);
    Ok((chain.into_disk().await?, version))
}

/// What the image itself holds stays; the rest it must not get from another backing file.
fn kind(piece: &Piece) -> Kind {
    match piece.extent.content {
        Content::Absent => Kind::Zero,
        _ if piece.extent.depth == 0 => Kind::Same,
        Content::Zero => Kind::Zero,
        Content::Data | Content::Compressed => Kind::Data,
    }
}
