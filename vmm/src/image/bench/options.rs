//! What a benchmark is told: the requests, and how the image is opened.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use disk::{Disk, Format, OpenOptions, Order};

use super::super::arguments::write_options;
use super::super::interrupt::Interrupt;
use super::job::{Done, Job, Plan};
use super::positions::Positions;
use super::report::Report;
use crate::cli::size::parse_size;

/// How many requests there are where nobody says it: as many as `qemu-img bench` makes.
const COUNT_DEFAULT: u64 = 75_000;
/// The size of requests that fill an image.
const FILL_BYTES: u64 = 1 << 20;
/// The most memory of all requests in flight.
const MEMORY_MAX_BYTES: u64 = 1 << 30;
/// The unit of requests.
const SECTOR_BYTES: u64 = 512;

/// One benchmark.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Args, Clone, Debug)]
pub(super) struct JobOptions {
    /// Format of the image: raw, qcow2 or flat
    #[arg(short = 'f', long, value_name = "FMT")]
    format: Option<Format>,

    /// How many requests [default: 75000, or as many as --time or --bytes leave room for]
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// How many bytes, in whole requests
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "count")]
    bytes: Option<u64>,

    /// How long, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    time: Option<Duration>,

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
    #[arg(long, value_name = "MODE")]
    order: Option<Order>,

    /// The number of the host's system call fdatabarrier, for --order barrier
    #[arg(long, value_name = "N", requires = "order")]
    barrier_syscall: Option<u32>,

    /// Read an image that is in use, whose content may be changing
    #[arg(short = 'U', long, conflicts_with = "write")]
    force_share: bool,
}

impl JobOptions {
    /// Makes the requests, and tells what they took.
    pub(super) async fn run(&self, file: &Path, interrupt: &Interrupt) -> Result<Report> {
        self.check_sizes()?;
        let disk = self.options(file)?.open().await?;
        let opened = disk.statistics();
        let done = self.work(file, &*disk, interrupt).await;
        let worked = disk.statistics();
        let closing = Instant::now();
        let closed = disk.close().await;
        let closing = closing.elapsed();
        let done = done?;
        closed?;
        let counts = [opened, worked, disk.statistics()];
        Ok(Report::new(self.plan(), &done, &counts, closing))
    }

    /// The format of the image.
    pub(super) fn format(&self) -> Format {
        self.format.unwrap_or(Format::Raw)
    }

    /// Takes the format, the order and the time of `common`, or what is usual.
    pub(super) fn take_common(&mut self, common: &Self, format: Format, time: Duration) {
        self.format = Some(common.format.unwrap_or(format));
        self.time = Some(common.time.unwrap_or(time));
        self.order = common.order.filter(|_| self.write);
        self.barrier_syscall = common.barrier_syscall.filter(|_| self.write);
    }

    /// One that writes so many bytes from the start of the same image.
    pub(super) fn filling(self, bytes: u64) -> Self {
        Self {
            write: true,
            random: false,
            step_size: None,
            buffer_size: FILL_BYTES,
            flush_interval: None,
            count: Some(bytes / FILL_BYTES),
            time: None,
            ..self
        }
    }

    fn options(&self, file: &Path) -> Result<OpenOptions> {
        let mut options = write_options(file, self.format)
            .read_only(!self.write)
            .share_all(self.force_share);
        if let Some(order) = self.order {
            if !self.write {
                bail!("--order is for writes: add --write");
            }
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

    /// Refuses requests that there is no memory for, or none of which is made.
    fn check_sizes(&self) -> Result<()> {
        let (len, depth) = (self.buffer_size, u64::from(self.depth));
        let at_once = depth.min(self.count().max(1));
        if len
            .checked_mul(at_once)
            .is_none_or(|bytes| bytes > MEMORY_MAX_BYTES)
        {
            bail!(
                "--buffer-size {len}: {at_once} such requests at a time (--depth) have more than \
                 the {MEMORY_MAX_BYTES} bytes of memory that there may be; give less of either"
            );
        }
        if let Some(bytes) = self.bytes.filter(|&bytes| bytes < len) {
            bail!("--bytes {bytes}: less than a request of {len} (--buffer-size), so none is made");
        }
        Ok(())
    }

    async fn work(&self, file: &Path, disk: &dyn Disk, interrupt: &Interrupt) -> Result<Done> {
        let positions = self.positions(file, disk.properties().size_bytes)?;
        let job = Job::new(disk, interrupt, self.plan(), positions);
        job.run().await
    }

    fn plan(&self) -> Plan {
        Plan {
            count: self.count(),
            time_max: self.time,
            depth: self.depth.into(),
            buffer_bytes: self.buffer_size,
            pattern: self.write.then_some(self.pattern),
            flush_interval: self.flush_interval,
            drain: !self.no_drain,
        }
    }

    /// How many requests there are at most.
    fn count(&self) -> u64 {
        let of_bytes = |bytes: u64| bytes.checked_div(self.buffer_size);
        let default = self.time.map_or(COUNT_DEFAULT, |_| u64::MAX);
        self.count
            .or(self.bytes.and_then(of_bytes))
            .unwrap_or(default)
    }

    /// Where requests to a disk of `size` bytes go.
    fn positions(&self, file: &Path, size: u64) -> Result<Positions> {
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
                let file = file.display();
                bail!("{file}: has {size} bytes, too few for {len} at offset {offset}")
            }
        }
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("not a time that anything can be done in".to_owned()),
    }
}
