//! The servers under a load: in turns by the clock, then each by itself, to count.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::tests::nbd::Server;
use anyhow::{Context as _, Result};
use rustix::fs::syncfs;

use super::client::{Clients, Done, Limit};
use super::host_syncs::HostSyncs;
use super::image::{Image, Images};
use super::load::Load;
use super::own_counts::OwnCounts;
use crate::bench::contender::Contender;
use crate::bench::figures::per;
use crate::bench::ground::Ground;
use crate::bench::interrupt::Interrupt;
use crate::bench::nbd::{Programs, serve_qemu};

/// How many flushes are counted, and how long at most.
const COUNTED: Limit = Limit {
    time: Duration::from_secs(5),
    flushes: 1024,
};

/// What is measured on one file system.
pub(super) struct Bench<'a> {
    pub(super) programs: &'a Programs,
    pub(super) contenders: &'a [Contender],
    pub(super) directory: &'a Path,
    pub(super) images: Images,
    pub(super) ground: Ground,
    /// Absent where they cannot be counted.
    pub(super) syncs: Option<HostSyncs>,
    pub(super) interrupt: &'a Interrupt,
    /// How often each is asked, and how long.
    pub(super) runs: usize,
    pub(super) run: Duration,
}

/// What was measured with a load, for each contender that takes it.
pub(super) struct Row {
    pub(super) load: Load,
    pub(super) measured: Vec<Option<Measured>>,
}

/// What was measured of a contender with a load.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Flushes a second, of each run.
    pub(super) rates: Vec<f64>,
    /// How long each write and its flush took, in microseconds, of all runs.
    pub(super) latencies_us: Vec<f64>,
    pub(super) counts: Counts,
    /// Of the server's whole life, by itself.
    pub(super) own: Option<OwnCounts>,
}

/// What a flush cost, on average; absent where it cannot be counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) host_syncs: Option<f64>,
    pub(super) device_flushes: Option<f64>,
    pub(super) device_bytes: Option<f64>,
}

/// A contender that is being measured.
struct Entrant {
    clients: Clients,
    server: Server,
    statistics: Option<PathBuf>,
    rates: Vec<f64>,
    latencies_us: Vec<f64>,
    image: Image,
}

impl Bench<'_> {
    /// Measures everyone with a load.
    pub(super) fn measure(&self, load: Load) -> Result<Row> {
        let entrants = self.contenders.iter().map(|contender| {
            let taken = load.suits(contender.format);
            let entrant = taken.then(|| self.start(contender, &load));
            entrant.transpose().with_context(|| contender.name)
        });
        let mut entrants: Vec<Option<Entrant>> = entrants.collect::<Result<_>>()?;
        // The first round warms up and does not count.
        for round in 0..=self.runs {
            for turn in 0..entrants.len() {
                // Each comes first in its turn, should that matter.
                let n = (round + turn) % self.contenders.len();
                if let Some(entrant) = &mut entrants[n] {
                    let limit = Limit {
                        time: self.run,
                        flushes: u64::MAX,
                    };
                    let done = self.run(entrant, &load, limit);
                    let done = done.with_context(|| self.contenders[n].name)?;
                    if round > 0 {
                        entrant.rates.push(done.flushes() / done.seconds);
                        entrant.latencies_us.extend(done.latencies_us);
                    }
                }
            }
        }
        let mut measured = Vec::new();
        for (entrant, contender) in entrants.into_iter().zip(self.contenders) {
            let finished = entrant.map(|entrant| self.finish(entrant, &load));
            measured.push(finished.transpose().with_context(|| contender.name)?);
        }
        Ok(Row { load, measured })
    }

    fn start(&self, contender: &Contender, load: &Load) -> Result<Entrant> {
        self.interrupt.check()?;
        let image = self.images.make(contender.name, contender.format, load)?;
        let (server, statistics) = serve(contender, self.programs, &image.path)?;
        Ok(Entrant {
            clients: Clients::connect(server.socket(), load)?,
            server,
            statistics,
            rates: Vec::new(),
            latencies_us: Vec::new(),
            image,
        })
    }

    /// One run, with no more than its share of the places.
    fn run(&self, entrant: &mut Entrant, load: &Load, limit: Limit) -> Result<Done> {
        let places = &entrant.image.places;
        // The first round and the pass that counts need theirs too.
        let share = places.share(self.runs + 2);
        let limit = Limit {
            flushes: limit.flushes.min(share),
            ..limit
        };
        entrant.clients.run(load, places, limit, self.interrupt)
    }

    /// Counts, and ends the server.
    fn finish(&self, mut entrant: Entrant, load: &Load) -> Result<Measured> {
        let counts = self.count(&mut entrant, load)?;
        drop(entrant.clients);
        entrant.server.stop()?;
        Ok(Measured {
            rates: entrant.rates,
            latencies_us: entrant.latencies_us,
            counts,
            own: entrant.statistics.and_then(|path| OwnCounts::read(&path)),
        })
    }

    fn count(&self, entrant: &mut Entrant, load: &Load) -> Result<Counts> {
        let directory = File::open(self.directory)?;
        // What was written before does not count, what this leaves to be written does.
        syncfs(&directory)?;
        let before = self.ground.counts();
        let pid = entrant.server.pid();
        let mut pass = || self.run(entrant, load, COUNTED);
        let (syncs, done) = match &self.syncs {
            Some(syncs) => {
                let (count, done) = syncs.count(pid, pass)?;
                (Some(count), done)
            }
            None => (None, pass()?),
        };
        syncfs(&directory)?;
        let after = self.ground.counts();
        let device = after.zip(before).map(|(after, before)| after.since(before));
        Ok(Counts {
            host_syncs: syncs.map(|syncs| per(syncs, done.flushes())),
            device_flushes: device.map(|device| per(device.flushes, done.flushes())),
            device_bytes: device.map(|device| per(device.written_bytes, done.flushes())),
        })
    }
}

/// Starts a server. Ours writes its statistics to the path returned, at its end.
fn serve(
    contender: &Contender,
    programs: &Programs,
    image: &Path,
) -> Result<(Server, Option<PathBuf>)> {
    let socket = image.with_extension("socket");
    let Some(ours) = contender.ours(image) else {
        let server = serve_qemu(&programs.qemu, &contender.qemu_nodes(image), &socket)?;
        return Ok((server, None));
    };
    let statistics = image.with_extension("json");
    let words = ["--stats", &statistics.display().to_string(), &ours];
    let server = Server::microvm(&programs.ours, &socket, &words)?;
    Ok((server, Some(statistics)))
}
