//! `image trace`: says what a trace of reads holds, and reads it again.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use disk::flat::Copying;
use disk::{Buffers, Disk, Format, OpenOptions, Request, Trace};
use serde::Serialize;

use super::arguments::{Output, read_options, write_options};
use super::in_flight;
use super::interrupt::Interrupt;
use crate::human;

/// The most bytes of a read.
const READ_BYTES_MAX: u64 = 1 << 20;

/// The arguments of `image trace`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the image: raw, qcow2 or flat
    #[arg(short = 'f', long = "format", value_name = "FMT", requires = "image")]
    format: Option<Format>,

    /// Keep in the image, which is a flat one, what comes from its base
    #[arg(long, requires = "image")]
    copy: bool,

    /// How many reads are in flight at a time
    #[arg(short = 'd', long, value_name = "N", default_value_t = 1, requires = "image",
          value_parser = clap::value_parser!(u16).range(1..))]
    depth: u16,

    /// What to print
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    output: Output,

    /// The trace, as record-trace= of a disk wrote it
    #[arg(value_name = "TRACE")]
    trace: PathBuf,

    /// An image in which to read all that the trace names, in its order
    #[arg(value_name = "FILE")]
    image: Option<PathBuf>,
}

/// What there is to tell.
#[derive(Serialize)]
struct Report {
    ranges: usize,
    bytes: u64,
    replay: Option<Replay>,
}

/// What reading it again took.
#[derive(Serialize)]
struct Replay {
    reads: u64,
    bytes: u64,
    seconds: f64,
    /// How much came from the base and was kept.
    copied_bytes: u64,
}

/// Prints what the trace holds; with an image, reads that there.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let trace = Trace::load(&arguments.trace)?;
    let mut report = Report {
        ranges: trace.ranges().len(),
        bytes: trace.bytes(),
        replay: None,
    };
    if let Some(options) = arguments.open_options() {
        let interrupt = Interrupt::install()?;
        let disk = options.open().await?;
        let replayed = replay(disk.as_ref(), &trace, arguments.depth.into(), &interrupt).await;
        disk.close().await?;
        report.replay = Some(replayed?);
    }
    match arguments.output {
        Output::Json => super::print_json(&report),
        Output::Human => super::print(&report.text()),
    }
}

impl Arguments {
    fn open_options(&self) -> Option<OpenOptions> {
        let image = self.image.as_deref()?;
        if !self.copy {
            return Some(read_options(image, self.format));
        }
        let copying = Copying {
            on_read: true,
            prefetch: None,
        };
        Some(write_options(image, self.format).copying(copying))
    }
}

/// Reads all that a trace names, but what lies behind the end of the disk.
async fn replay(
    disk: &dyn Disk,
    trace: &Trace,
    depth: usize,
    interrupt: &Interrupt,
) -> Result<Replay> {
    let size_bytes = disk.properties().size_bytes;
    let mut pieces = trace.ranges().iter().flat_map(|range| {
        let end = range.end.min(size_bytes);
        let starts = (range.start..end).step_by(1 << 20);
        starts.map(move |start| (start, (end - start).min(READ_BYTES_MAX)))
    });
    let (mut reads, mut bytes) = (0, 0);
    let begun = Instant::now();
    let next = async || {
        let piece = pieces.next();
        if let Some((_, len)) = piece {
            (reads, bytes) = (reads + 1, bytes + len);
        }
        Ok(piece)
    };
    let read = async |(start, len)| {
        let Ok(len) = usize::try_from(len) else {
            bail!("a read of {len} bytes");
        };
        let request = Request::read(start, Buffers::zeroed(len));
        Ok(disk.submit(request).await?)
    };
    in_flight::for_each(depth, interrupt, next, read).await?;
    Ok(Replay {
        reads,
        bytes,
        seconds: begun.elapsed().as_secs_f64(),
        copied_bytes: disk.statistics().copies.on_read_bytes,
    })
}

impl Report {
    fn text(&self) -> String {
        let mut lines = vec![format!(
            "{}, {}\n",
            human::counted(self.ranges as u64, "range"),
            human::size(self.bytes)
        )];
        if let Some(replay) = &self.replay {
            lines.push(format!(
                "read again: {} in {}, {:.3} s\n",
                human::size(replay.bytes),
                human::counted(replay.reads, "read"),
                replay.seconds,
            ));
            let copied = human::size(replay.copied_bytes);
            lines.extend((replay.copied_bytes > 0).then(|| format!("copied: {copied}\n")));
        }
        lines.concat()
    }
}
