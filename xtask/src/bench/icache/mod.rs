//! `cargo xtask bench icache`: what classes are worth to a cache in front of slow storage, by guests
//! with hooks on their system calls.
//!
//! ```text
//!  this machine   Hdd: SimulatedStorage, an NBD server       images: an ext4 a load
//!  lab            /dev/vdX ── microvm: O_DIRECT, cache       nbdkit: delay, rate ══ microvm: flat image, cache
//!  guest          ext4 ── guest-syscalls load find|mail|join
//! ```
//!
//! The loads are those of `bench cache`, where the disk is the same and the guest a model. A guest is 20
//! to 30 times slower in the lab than on a real host, and slow storage is not: elapsed times say less
//! than how long the storage was busy, or how often it was asked.

mod counts;
mod hdd;
mod image;
mod measure;
mod slow;
mod table;
mod wire;

use ::tests::loads::Load;
use ::tests::{Host, Parts};
use anyhow::Result;
use clap::Args;
use images::packages::{Tool, require};

use super::interrupt::Interrupt;
use super::link::{self, Link};
use super::report::{Report, Section};
use super::scratch::Scratch;
use measure::{Cache, measure};
use slow::{Kind, Storages};
use table::{Row, table};

/// The options of `bench icache`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// What the guests do
    #[arg(long, value_delimiter = ',', default_values_t = Load::ALL)]
    only: Vec<Load>,
    /// What is slow
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    storage: Vec<Kind>,
    /// The sizes of the cache, in hundredths of the data
    #[arg(long, value_delimiter = ',', default_values_t = [1, 5, 10],
          value_parser = clap::value_parser!(u64).range(1..=100))]
    sizes: Vec<u64>,
    /// Caches that LRU rules too
    #[arg(long)]
    lru: bool,
    /// How long an answer takes at least over the link, in milliseconds
    #[arg(long, default_value_t = 5.0, value_name = "MS")]
    delay_ms: f64,
    /// How much comes over the link in a second, in millions of bytes
    #[arg(long, default_value_t = 50.0, value_name = "MB")]
    rate_mb: f64,
}

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    require(&[Tool::Mke2fs, Tool::NbdKit])?;
    let interrupt = Interrupt::install()?;
    let scratch = Scratch::make("icache", None)?;
    let directory = scratch.directory();
    let link = Link {
        delay_ms: arguments.delay_ms,
        rate_bytes: arguments.rate_mb * 1e6,
    };
    let storages = Storages::make(&arguments.only, link, directory)?;
    let parts = Parts::get()?.with_file_systems()?;
    let drives = storages.drives(directory);
    let host = Host::emulated_with_drives(parts, &drives, link::bring)?;
    for kind in &arguments.storage {
        let mut rows = Vec::new();
        for load in &arguments.only {
            load_on(
                &host,
                &storages,
                (*kind, *load),
                arguments,
                &interrupt,
                &mut rows,
            )?;
        }
        report.add(Section {
            title: format!("A cache with classes and without, on {}", kind.title(&link)),
            tables: table(&rows),
            charts: Vec::new(),
        });
    }
    Ok(())
}

/// Has guests do a load with each cache.
fn load_on(
    host: &Host,
    storages: &Storages,
    (kind, load): (Kind, Load),
    arguments: &Arguments,
    interrupt: &Interrupt,
    rows: &mut Vec<Row>,
) -> Result<()> {
    for cache in caches(arguments) {
        interrupt.check()?;
        let sized = cache.map(|(cache, percent)| (cache, image::BYTES / 100 * percent));
        let slow = storages.disk(host, kind, load)?;
        let measured = measure(host, slow, load, sized)?;
        eprintln!("xtask: {kind}, {load}, {cache:?}: {measured:?}");
        rows.push(Row {
            load,
            cache,
            measured,
        });
    }
    Ok(())
}

/// None, and each kind in each size.
fn caches(arguments: &Arguments) -> Vec<Option<(Cache, u64)>> {
    let policies: &[_] = if arguments.lru {
        &["lru", "s3-fifo"]
    } else {
        &["s3-fifo"]
    };
    let mut caches = vec![None];
    for percent in &arguments.sizes {
        for policy in policies {
            for has_classes in [false, true] {
                caches.push(Some((
                    Cache {
                        policy,
                        has_classes,
                    },
                    *percent,
                )));
            }
        }
    }
    caches
}
