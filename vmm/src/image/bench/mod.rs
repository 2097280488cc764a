//! `image bench`: how fast requests to an image are, straight on the disk engine.

mod job;
mod latencies;
mod positions;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use disk::{Disk, Format, OpenOptions, Order};

use self::job::{Done, Job, Plan};
use self::positions::Positions;
use self::report::Report;
use super::arguments::{Output, write_options};
use super::interrupt::Interrupt;
use crate::cli::size::parse_size;

/// The unit of requests.
const SECTOR_BYTES: u64 = 512;

/// The arguments of `image bench`.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the image: raw or qcow2
    #[arg(short = 'f', long, value_name = "FMT")]
    format: Option<Format>,

    /// How many requests
    #[arg(short = 'c', long, value_name = "N", default_value_t = 75_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,

    /// How many requests are in flight at a time
    #[arg(short = 'd', long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    depth: u16,

    /// Where the first request starts
    #[arg(short = 'o', long, value_name = "OFFSET", default_value = "0", value_parser = parse_size)]
    offset: u64,

    /// Size of each request
    #[arg(short = 's', long, value_name = "SIZE", default_value = "4K", value_parser = parse_size)]
    buffer_size: u64,

    /// From one request to the next [default: the size of each]
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = parse_size)]
    step_size: Option<u64>,

    /// Go to random places, multiples of the step size behind the offset, not to one after the other
    #[arg(long)]
    random: bool,

    /// Which random places: the same for the same number
    #[arg(long, value_name = "N", default_value_t = 0, requires = "random")]
    seed: u64,

    /// Write into the image, over what is there; without it, read
    #[arg(short = 'w', long)]
    write: bool,

    /// The byte that is written
    #[arg(long, value_name = "BYTE", default_value_t = 0, requires = "write")]
    pattern: u8,

    /// A flush after so many requests, which waits for all before it and lets none begin meanwhile
    #[arg(long, value_name = "N", requires = "write", value_parser = clap::value_parser!(u64).range(1..))]
    flush_interval: Option<u64>,

    /// Let requests go on beside a flush; only the one that brought it about waits
    #[arg(long, requires = "flush_interval")]
    no_drain: bool,

    /// What keeps metadata in order with data: journal, ordered, barrier or unsafe
    #[arg(long, value_name = "MODE", requires = "write")]
    order: Option<Order>,

    /// The number of the host's system call fdatabarrier, for --order barrier
    #[arg(long, value_name = "N", requires = "order")]
    barrier_syscall: Option<u32>,

    /// Read an image that is in use, whose content may be changing
    #[arg(short = 'U', long, conflicts_with = "write")]
    force_share: bool,

    /// What to print
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    output: Output,

    /// Print nothing but errors
    #[arg(short = 'q', long)]
    quiet: bool,

    /// The image, which -w writes into
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Makes the requests, and prints what they took. Ctrl-C ends it early.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let disk = arguments.options()?.open().await?;
    let opened = disk.statistics();
    let done = arguments.work(&*disk, &interrupt).await;
    let worked = disk.statistics();
    let closing = Instant::now();
    let closed = disk.close().await;
    let closing = closing.elapsed();
    let done = done?;
    closed?;
    let counts = [opened, worked, disk.statistics()];
    let report = Report::new(arguments.plan(), &done, &counts, closing);
    match arguments.output {
        Output::Json => super::print_json(&report)?,
        Output::Human if arguments.quiet => {}
        Output::Human => super::print(&report.text())?,
    }
    // What was done until then is told all the same.
    interrupt.check()
}

impl Arguments {
    fn options(&self) -> Result<OpenOptions> {
        let mut options = write_options(&self.file, self.format)
            .read_only(!self.write)
            .share_all(self.force_share);
        if let Some(order) = self.order {
            options = options.order(order);
        }
        if let Some(number) = self.barrier_syscall {
            if self.order != Some(Order::Barrier) {
                bail!("--barrier-syscall is for --order barrier only");
            }
            options = options.barrier_syscall(number);
        }
        Ok(options)
    }

    async fn work(&self, disk: &dyn Disk, interrupt: &Interrupt) -> Result<Done> {
        let positions = self.positions(disk.properties().size_bytes)?;
        let job = Job::new(disk, interrupt, self.plan(), positions);
        job.run().await
    }

    fn plan(&self) -> Plan {
        Plan {
            count: self.count,
            depth: self.depth.into(),
            buffer_bytes: self.buffer_size,
            pattern: self.write.then_some(self.pattern),
            flush_interval: self.flush_interval,
            drain: !self.no_drain,
        }
    }

    /// Where requests to a disk of `size` bytes go.
    fn positions(&self, size: u64) -> Result<Positions> {
        let (offset, len) = (self.offset, self.buffer_size);
        // As for qemu-img, none means what nobody gave.
        let step = self.step_size.filter(|step| *step > 0).unwrap_or(len);
        for (option, bytes) in [
            ("--offset", offset),
            ("--buffer-size", len),
            ("--step-size", step),
        ] {
            if !bytes.is_multiple_of(SECTOR_BYTES) {
                bail!("{option} {bytes}: not a multiple of {SECTOR_BYTES}");
            }
        }
        if len == 0 {
            bail!("--buffer-size 0: a request has {SECTOR_BYTES} bytes at least");
        }
        match size.checked_sub(len) {
            Some(last) if offset <= last => {
                let seed = self.random.then_some(self.seed);
                Ok(Positions::new(offset, step, last, seed))
            }
            _ => {
                let file = self.file.display();
                bail!("{file}: has {size} bytes, too few for {len} at offset {offset}")
            }
        }
    }
}
