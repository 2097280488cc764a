//! `image rebase`: another backing file.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use disk::qcow2::Qcow2;
use disk::{Content, Disk, FileStorage, Format, OpenOptions};

use super::arguments::{ProgressArguments, read_options, write_options};
use super::copy::{Before, Copy, Target};
use super::identity::is_same_file;
use super::interrupt::Interrupt;
use super::options::beside;
use super::progress::Progress;
use super::walk::{Kind, Piece};

/// How many pieces are on their way at a time.
const IN_FLIGHT: usize = 16;

/// The arguments of `image rebase`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the image, which must be qcow2
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    format: Option<Format>,

    /// New backing file, relative to the directory of the image; "" for none
    #[arg(short = 'b', long, value_name = "FILE")]
    backing: String,

    /// Format of the new backing file: raw, qcow2 or flat
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<Format>,

    /// Change the name only: the new backing file reads as the old one does
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
    let backing = arguments.backing()?;
    let options = write_options(&arguments.file, arguments.format);
    let image = if arguments.unchecked {
        options.layers_max(1).open_qcow2().await?
    } else {
        let new = match backing {
            Some((name, format)) => Some(open_new(&arguments.file, name, format).await?),
            None => None,
        };
        let image = options.open_qcow2().await?;
        let merged = merge(&image, new, arguments.progress).await;
        merged.with_context(|| {
            let file = arguments.file.display();
            format!("{file}: reads as before, and stands on what it stood on")
        })?;
        image
    };
    let named = backing.map(|(name, format)| (name.to_owned(), format.to_string()));
    image.set_backing(named).await?;
    Ok(image.close().await?)
}

/// Writes into the image what it would read differently on its new backing file.
async fn merge(
    image: &Rc<Qcow2<FileStorage>>,
    new: Option<Rc<dyn Disk>>,
    progress: ProgressArguments,
) -> Result<()> {
    let target = Target {
        disk: Rc::clone(image) as Rc<dyn Disk>,
        compressed: None,
        unit_bytes: image.header().layout.subcluster_bytes(),
        before: new.map_or(Before::Zeros, Before::Backing),
    };
    let copy = Copy {
        source: &**image,
        target: &target,
        sparse_bytes: Some(1),
        kind: &kind,
        reads_throughout: true,
        in_flight: IN_FLIGHT,
        progress: &Progress::new(progress, image.properties().size_bytes),
        interrupt: &Interrupt::install()?,
    };
    let copied = copy.run().await;
    if copied.is_err() {
        image.close().await?;
    }
    copied
}

impl Arguments {
    /// The name and format of the new backing file.
    fn backing(&self) -> Result<Option<(&str, Format)>> {
        match (self.backing.as_str(), self.backing_format) {
            ("", None) => Ok(None),
            ("", Some(_)) => bail!("-F is the format of a backing file, but there is to be none"),
            (name, Some(format)) => Ok(Some((name, format))),
            (name, None) => {
                bail!(
                    "the format of the backing file '{name}' must be given: -F raw, -F qcow2 or -F flat"
                )
            }
        }
    }
}

/// Opens what is to be the backing file of the image at `file`.
async fn open_new(file: &Path, name: &str, format: Format) -> Result<Rc<dyn Disk>> {
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
    Ok(options.open().await?)
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
