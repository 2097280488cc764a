//! `image compare`: whether two images read alike.

use std::cell::Cell;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use disk::{Content, Disk, Extent, Format};

use super::arguments::{ProgressArguments, read_options};
use super::in_flight;
use super::interrupt::Interrupt;
use super::progress::Progress;
use super::scratch::Pool;
use super::walk::Walk;
use super::zeros::{first_difference, is_zero};

/// How much is read at once, and how many times.
const READ_BYTES: u64 = 1 << 20;
const DEPTH: usize = 16;

/// The status that says that the images differ.
const DIFFERENT: u8 = 1;

/// The arguments of `image compare`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the first image: raw, qcow2 or flat
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    first_format: Option<Format>,

    /// Format of the second image
    #[arg(short = 'F', value_name = "FMT")]
    second_format: Option<Format>,

    /// Take images of different sizes, or with data in different places, as different
    #[arg(short = 's', long)]
    strict: bool,

    /// Open images that are in use, whose content may be changing
    #[arg(short = 'U', long)]
    force_share: bool,

    #[command(flatten)]
    progress: ProgressArguments,

    /// The first image
    #[arg(value_name = "FILE1")]
    first: PathBuf,

    /// The second image
    #[arg(value_name = "FILE2")]
    second: PathBuf,
}

/// A stretch that is alike in itself in both images.
#[derive(Clone, Copy)]
struct Pair {
    offset: u64,
    len: u64,
    extents: [Extent; 2],
}

/// What the comparison knows.
struct Comparison<'a> {
    disks: [&'a dyn Disk; 2],
    strict: bool,
    pool: Pool,
    progress: Progress,
    /// The first difference so far, and what it is.
    difference: Cell<Option<(u64, Difference)>>,
}

/// How the images differ.
#[derive(Clone, Copy)]
enum Difference {
    Content,
    Extent,
}

/// Says whether the images differ, as the exit status and in words.
pub(super) async fn run(arguments: &Arguments) -> Result<u8> {
    let open = async |file, format| {
        let options = read_options(file, format).share_all(arguments.force_share);
        options.open().await
    };
    let first = open(&arguments.first, arguments.first_format).await?;
    let second = open(&arguments.second, arguments.second_format).await?;
    let sizes = [&first, &second].map(|disk| disk.properties().size_bytes);
    let (text, status) = if arguments.strict && sizes[0] != sizes[1] {
        ("Strict mode: Image size mismatch!\n".to_owned(), DIFFERENT)
    } else {
        let comparison = Comparison {
            disks: [&*first, &*second],
            strict: arguments.strict,
            pool: Pool::new(usize::try_from(READ_BYTES)?),
            progress: Progress::new(arguments.progress, sizes[0].max(sizes[1])),
            difference: Cell::new(None),
        };
        let difference = comparison.run(sizes).await?;
        (
            verdict(difference, sizes),
            if difference.is_some() { DIFFERENT } else { 0 },
        )
    };
    if !arguments.progress.quiet {
        super::print(&text)?;
    }
    first.close().await?;
    second.close().await?;
    Ok(status)
}

/// What `qemu-img compare` prints.
fn verdict(difference: Option<(u64, Difference)>, sizes: [u64; 2]) -> String {
    let [shorter, longer] = [sizes[0].min(sizes[1]), sizes[0].max(sizes[1])];
    let alike = difference.map_or(longer, |(offset, _)| offset);
    let warning = if shorter < longer && alike >= shorter {
        "Warning: Image size mismatch!\n"
    } else {
        ""
    };
    let text = match difference {
        None => "Images are identical.".to_owned(),
        Some((offset, Difference::Content)) => format!("Content mismatch at offset {offset}!"),
        Some((offset, Difference::Extent)) => {
            format!("Strict mode: Offset {offset} block status mismatch!")
        }
    };
    format!("{warning}{text}\n")
}

impl Comparison<'_> {
    async fn run(&self, sizes: [u64; 2]) -> Result<Option<(u64, Difference)>> {
        let mut walks = [0, 1].map(|n| Walk::new(self.disks[n], 0..sizes[n]));
        let end = sizes[0].max(sizes[1]);
        let mut offset = 0;
        let next = async || {
            // What is on its way comes before what would be next: the first difference is in it.
            if offset == end || self.difference.get().is_some() {
                return Ok(None);
            }
            let pair = Pair::at(&mut walks, offset, end).await?;
            offset += pair.len;
            Ok(Some(pair))
        };
        let interrupt = Interrupt::install()?;
        in_flight::for_each(DEPTH, &interrupt, next, |pair| self.compare(pair)).await?;
        Ok(self.difference.get())
    }

    async fn compare(&self, pair: Pair) -> Result<()> {
        let Pair {
            offset,
            len,
            extents,
        } = pair;
        let [first, second] = extents;
        if self.strict && place(first.content) != place(second.content) {
            self.differ(offset, Difference::Extent);
        }
        let differs = match (first.content.is_zero(), second.content.is_zero()) {
            (true, true) => None,
            (true, false) => self.first_data(1, offset, len).await?,
            (false, true) => self.first_data(0, offset, len).await?,
            (false, false) => {
                let (one, other) = futures_util::future::try_join(
                    self.pool.read(self.disks[0], offset, len),
                    self.pool.read(self.disks[1], offset, len),
                )
                .await?;
                first_difference(&one, &other)
            }
        };
        if let Some(at) = differs {
            self.differ(offset + at as u64, Difference::Content);
        }
        self.progress.add(len);
        Ok(())
    }

    /// Where image `number` first reads as something else than zero.
    async fn first_data(&self, number: usize, offset: u64, len: u64) -> Result<Option<usize>> {
        let content = self.pool.read(self.disks[number], offset, len).await?;
        if is_zero(&content) {
            return Ok(None);
        }
        Ok(content.iter().position(|byte| *byte != 0))
    }

    fn differ(&self, offset: u64, difference: Difference) {
        if self
            .difference
            .get()
            .is_none_or(|(first, _)| offset < first)
        {
            self.difference.set(Some((offset, difference)));
        }
    }
}

impl Pair {
    /// What is at `offset`. Past its end, a disk reads as zeros.
    async fn at(walks: &mut [Walk<'_>; 2], offset: u64, end: u64) -> Result<Self> {
        let mut extents = [nothing(end - offset); 2];
        for (walk, extent) in walks.iter_mut().zip(&mut extents) {
            if let Some(piece) = walk.peek().await? {
                *extent = piece.extent;
            }
        }
        let [first, second] = extents;
        let mut len = first.len.min(second.len);
        if !(first.content.is_zero() && second.content.is_zero()) {
            len = len.min(READ_BYTES - offset % READ_BYTES);
        }
        for walk in walks {
            walk.take(len);
        }
        Ok(Self {
            offset,
            len,
            extents,
        })
    }
}

/// What a strict comparison compares of what there is: not whether it is compressed.
fn place(content: Content) -> Content {
    match content {
        Content::Compressed => Content::Data,
        content => content,
    }
}

/// What lies past the end of a disk.
fn nothing(len: u64) -> Extent {
    Extent {
        len,
        content: Content::Absent,
        depth: 0,
        host_offset: None,
    }
}
