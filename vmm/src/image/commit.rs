//! `image commit`: what an image holds goes into a file that it stands on.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use disk::{Content, Format, Layer, OpenOptions};

use super::arguments::{ProgressArguments, read_options, write_options};
use super::copy::{Copy, Target};
use super::identity::is_same_file;
use super::interrupt::Interrupt;
use super::overlay::{Overlay, has_snapshots};
use super::progress::Progress;
use super::resize;
use super::walk::{Kind, Piece};

/// How many pieces are on their way at a time.
const IN_FLIGHT: usize = 16;

/// The arguments of `image commit`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the image: qcow2 or flat
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    format: Option<Format>,

    /// The backing file to commit to, further down the chain; implies -d
    #[arg(short = 'b', long, value_name = "FILE")]
    base: Option<PathBuf>,

    /// Do not empty the image
    #[arg(short = 'd', long)]
    keep: bool,

    #[command(flatten)]
    progress: ProgressArguments,

    /// The image
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Where the data goes, and what it comes from.
struct Plan {
    /// The files that are merged: the image and those above the base.
    layers: usize,
    base: PathBuf,
    base_format: Format,
    base_bytes: u64,
    /// The file that stands on the base.
    above: PathBuf,
    above_format: Format,
    /// The disk's size, and that of the smallest file between image and base.
    size_bytes: u64,
    between_bytes: u64,
}

/// Commits the image.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let plan = Plan::new(arguments).await?;
    let empties = !arguments.keep && arguments.base.is_none();
    let image = plan.open(arguments, empties).await?;
    let source = image.disk();
    let base = OpenOptions::new(&plan.base).format(plan.base_format);
    let target = Target::open(base, plan.base_format, false).await?;
    let interrupt = Interrupt::install()?;
    let progress = Progress::new(arguments.progress, plan.size_bytes);
    let copy = Copy {
        source: &*source,
        target: &target,
        sparse_bytes: Some(1),
        kind: &|piece| plan.kind(piece),
        // What the image does not hold is left out of it here.
        reads_throughout: false,
        in_flight: IN_FLIGHT,
        progress: &progress,
        interrupt: &interrupt,
    };
    let copied = copy.run().await;
    let closed = target.disk.close().await;
    copied.with_context(|| {
        let base = plan.base.display();
        let remedy = match plan.base_format {
            Format::Raw | Format::Flat => String::new(),
            // A write that failed may have taken clusters.
            Format::Qcow2 => format!(
                ", or have given back what was allocated for nothing: \
                 microvm image check --repair leaks {base}"
            ),
        };
        format!("{base}: holds a part of the changes now; commit again{remedy}")
    })?;
    closed?;
    if empties {
        image.empty().await.with_context(|| {
            let file = arguments.file.display();
            format!("{file}: is in its backing file now, but could not be emptied")
        })?;
    }
    Ok(source.close().await?)
}

impl Plan {
    async fn new(arguments: &Arguments) -> Result<Self> {
        // Only looked at: the base is locked for reading here, and will be written.
        let options = read_options(&arguments.file, arguments.format).share_all(true);
        let chain = options.chain().await?;
        let layers = chain.layers();
        let file = arguments.file.display();
        if layers.len() < 2 {
            let hint = match layers[0].format {
                Format::Flat => "; a flat image lets go of its own once it holds all of its disk",
                _ => "",
            };
            bail!("{file}: has no backing file to commit to{hint}");
        }
        let index = match &arguments.base {
            None => 1,
            Some(base) => find(layers, base)
                .with_context(|| format!("{file}: does not stand on '{}'", base.display()))?,
        };
        if layers[index].storage.is_remote() {
            let base = layers[index].path.display();
            bail!("{file}: stands on '{base}', which is far away, where nothing can be written");
        }
        for pair in layers[..=index].windows(2) {
            pair[0].check_base(&pair[1])?;
            if !pair[0].flat_snapshots().await?.is_empty() {
                return Err(has_snapshots(&pair[0].path));
            }
        }
        let between = layers[1..index].iter().map(Layer::virtual_size_bytes);
        Ok(Self {
            layers: index,
            base: layers[index].path.clone(),
            base_format: layers[index].format,
            base_bytes: layers[index].virtual_size_bytes(),
            above: layers[index - 1].path.clone(),
            above_format: layers[index - 1].format,
            size_bytes: layers[0].virtual_size_bytes(),
            between_bytes: between.min().unwrap_or(u64::MAX),
        })
    }

    /// Opens what is to be committed, once the base has room for it.
    async fn open(&self, arguments: &Arguments, empties: bool) -> Result<Overlay> {
        let file = &arguments.file;
        let options = write_options(file, arguments.format).layers_max(self.layers);
        if self.layers == 1 {
            let writes = empties || self.records_growth();
            let image = Overlay::open(file, options.read_only(!writes)).await?;
            self.grow_base(Some(&image)).await?;
            return Ok(image);
        }
        let above = if self.records_growth() {
            // Together with the image, it could only be read.
            let options = OpenOptions::new(&self.above).format(self.above_format);
            Some(Overlay::open(&self.above, options.layers_max(1)).await?)
        } else {
            None
        };
        self.grow_base(above.as_ref()).await?;
        if let Some(above) = above {
            above.disk().close().await?;
        }
        Overlay::open(file, options.read_only(true)).await
    }

    /// Whether the file that stands on the base must know how large that becomes.
    fn records_growth(&self) -> bool {
        self.base_bytes < self.size_bytes && self.above_format == Format::Flat
    }

    /// Gives the base room for all of the disk, and tells `above`, which stands on it.
    async fn grow_base(&self, above: Option<&Overlay>) -> Result<()> {
        if self.base_bytes >= self.size_bytes {
            return Ok(());
        }
        let base = OpenOptions::new(&self.base).format(self.base_format);
        resize::grow_to(base, self.size_bytes).await?;
        match above {
            Some(above) => above.note_backing_size(self.size_bytes).await,
            None => Ok(()),
        }
    }

    /// What is to be done with a piece of the layers above the base.
    fn kind(&self, piece: &Piece) -> Kind {
        match piece.extent.content {
            // Past the end of a file between, the image reads as zeros whatever the base holds.
            Content::Absent if piece.offset < self.between_bytes => Kind::Same,
            Content::Absent | Content::Zero => Kind::Zero,
            Content::Data | Content::Compressed => Kind::Data,
        }
    }
}

/// Which of the backing files `base` is.
fn find(layers: &[Layer], base: &Path) -> Option<usize> {
    (1..layers.len()).find(|index| {
        let layer = &layers[*index];
        layer.path == base || is_same_file(&layer.path, base)
    })
}
