//! `cargo xtask bench far`: how long a stock Debian takes to its prompt from a base on a slow link,
//! and from a local one.
//!
//! ```text
//!  lab    nbdkit, with its delay and its rate filter ══ unix socket ══ microvm: flat image, prefetch, trace
//! ```
//!
//! In the lab a guest is much slower than on a real host, and its base is not: any link would look
//! good. So the link is slowed as much as the guest is.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use ::tests::artifacts::{self, Profile};
use ::tests::{Guest, Host, Parts, Userland};
use anyhow::{Context as _, Result};
use clap::Args;
use images::packages::{Tool, require};
use rustix::process::Signal;

use super::chart::Bars;
use super::figures::{median, ratio, spread_percent};
use super::interrupt::Interrupt;
use super::link::{self, Link, Nbd};
use super::report::{Report, Section};

/// What a start over the link should take at most with a trace, times one from a local base.
const MARK: f64 = 1.3;

/// The options of `bench far`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often the guest starts from each base; the median counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// How long an answer takes at least, in milliseconds
    #[arg(long, default_value_t = 5.0, value_name = "MS")]
    delay_ms: f64,
    /// How much comes in a second, in millions of bytes
    #[arg(long, default_value_t = 50.0, value_name = "MB")]
    rate_mb: f64,
    /// How long such a guest takes to its prompt on a real host, in seconds; 0 leaves the link as
    /// fast as it is
    #[arg(long, default_value_t = 3.0, value_name = "S")]
    real_s: f64,
}

/// Where the guest's disk comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// A file of its host.
    Here,
    /// Behind the link, copied after what a trace of a start says.
    FarWithTrace,
    /// Behind the link, as the guest asks for it.
    Far,
}

impl Base {
    const ALL: [Self; 3] = [Self::Here, Self::FarWithTrace, Self::Far];

    fn name(self) -> &'static str {
        match self {
            Self::Here => "local base",
            Self::FarWithTrace => "far, prefetch and trace",
            Self::Far => "far, on demand",
        }
    }
}

/// What was seen of starts from one base.
#[derive(Default)]
struct Starts {
    seconds: Vec<f64>,
    fetched_mib: Vec<f64>,
}

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    require(&[Tool::NbdKit])?;
    let interrupt = Interrupt::install()?;
    let parts = Parts::with(artifacts::static_program(
        "microvm",
        "microvm",
        Profile::Release,
    )?)?;
    let host = Host::emulated_with(parts.with_extra()?, link::bring)?;
    let trace = record(&host)?;
    // The first does not count: it brings the files into the host's page cache, and is for the
    // link's speed.
    let slow = start(&host, &image(&host, None)?, "")?;
    let slowdown = if arguments.real_s > 0.0 {
        (slow / arguments.real_s).max(1.0)
    } else {
        1.0
    };
    let link = Link {
        delay_ms: arguments.delay_ms * slowdown,
        rate_bytes: arguments.rate_mb * 1e6 / slowdown,
    };
    let mut starts = Base::ALL.map(|base| (base, Starts::default()));
    for run in 1..=arguments.runs.max(1) {
        for (base, starts) in &mut starts {
            interrupt.check()?;
            eprintln!(
                "xtask: {}, run {run} of {}",
                base.name(),
                arguments.runs.max(1)
            );
            measure(&host, *base, &link, &trace, starts)?;
        }
    }
    let mut section = section(&starts, &link, slowdown);
    section.tables += &base_size(&host)?;
    report.add(section);
    Ok(())
}

/// A trace of a start, in a file of the host's.
fn record(host: &Host) -> Result<String> {
    eprintln!("xtask: recording a start");
    let trace = host.fresh_path("boot.trace").display().to_string();
    let image = image(host, None)?;
    start(host, &image, &format!(",record-trace={trace}"))?;
    Ok(trace)
}

/// A new image, on the local base or on what a server has.
fn image(host: &Host, nbd: Option<&Nbd>) -> Result<String> {
    let image = host.fresh_path("disk.flat").display().to_string();
    let base = nbd.map_or_else(|| base(host), Nbd::url);
    host.run(&format!(
        "{} image create -q -f flat -b '{base}' -F raw '{image}'",
        host.microvm()
    ))?;
    Ok(image)
}

/// The base, as a file of the host's.
fn base(host: &Host) -> String {
    let disk = &host.parts().extra().debian.disk;
    host.path(disk).display().to_string()
}

/// Says how large the base is.
fn base_size(host: &Host) -> Result<String> {
    let disk = &host.parts().extra().debian.disk;
    let metadata = fs::metadata(disk).with_context(|| format!("{}: look", disk.display()))?;
    let (mib, data_mib) = (metadata.len() >> 20, (metadata.blocks() * 512) >> 20);
    Ok(format!(
        "\nThe base has {mib} MiB, {data_mib} of them data.\n"
    ))
}

fn measure(host: &Host, from: Base, link: &Link, trace: &str, starts: &mut Starts) -> Result<()> {
    if from == Base::Here {
        starts.seconds.push(start(host, &image(host, None)?, "")?);
        return Ok(());
    }
    let nbd = Nbd::start(host, &base(host), link)?;
    let image = image(host, Some(&nbd))?;
    let options = match from {
        Base::FarWithTrace => format!(",prefetch,trace={trace}"),
        _ => String::new(),
    };
    starts.seconds.push(start(host, &image, &options)?);
    let fetched = nbd.reads(host)?.bytes;
    nbd.end()?;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    starts.fetched_mib.push(fetched as f64 / f64::from(1 << 20));
    Ok(())
}

/// Starts a guest, and ends it at its prompt; says how many seconds that took it.
fn start(host: &Host, image: &str, options: &str) -> Result<f64> {
    let debian = &host.parts().extra().debian;
    let begin = Instant::now();
    let mut vm = Guest::on(host)
        .kernel(&debian.kernel, Some(&debian.initrd), "quiet")
        .userland(Userland::Debian)
        .mem("1G")
        .disk(&format!("{image},format=flat{options}"))
        .boot();
    let seconds = begin.elapsed().as_secs_f64();
    vm.signal(Signal::TERM);
    vm.expect_stderr("a second signal");
    // This one does not wait for the guest, but closes its disks.
    vm.signal(Signal::TERM);
    vm.wait();
    host.run(&format!("rm '{image}'"))
        .context("the image of a start")?;
    Ok(seconds)
}

fn section(starts: &[(Base, Starts)], link: &Link, slowdown: f64) -> Section {
    let local = &starts[0].1.seconds;
    let mut tables = format!(
        "{:<24} {:>8} {:>7} {:>8} {:>12}\n",
        "base", "s", "spread", "x local", "fetched MiB"
    );
    for (base, starts) in starts {
        let fetched = match &starts.fetched_mib {
            none if none.is_empty() => "-".to_owned(),
            some => format!("{:.0}", median(some.clone())),
        };
        let _ = writeln!(
            tables,
            "{:<24} {:>8.1} {:>6.1}% {:>8.2} {fetched:>12}",
            base.name(),
            median(starts.seconds.clone()),
            spread_percent(&starts.seconds),
            ratio(&starts.seconds, local)
        );
    }
    let _ = writeln!(
        tables,
        "{:<24} {:>8} {:>7} {MARK:>8.2}",
        "mark, with a trace", "", ""
    );
    let ratios = |(base, starts): &(Base, Starts)| {
        let value = ratio(&starts.seconds, local);
        (base.name().to_owned(), vec![Some(value)])
    };
    Section {
        title: format!(
            "Debian to its prompt, in the lab, over a link of {:.0} ms and {:.1} MB/s ({slowdown:.0} times slower than \
             asked for)",
            link.delay_ms,
            link.rate_bytes / 1e6
        ),
        tables,
        charts: vec![Bars {
            name: "far boots".to_owned(),
            title: "time until the prompt, times that from a local base".to_owned(),
            series: vec!["flat".to_owned()],
            groups: starts.iter().map(ratios).collect(),
            line: Some(1.0),
        }],
    }
}
