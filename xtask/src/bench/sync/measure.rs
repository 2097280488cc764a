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
use super::load::{Load, Target};
use super::own_counts::OwnCounts;
use crate::bench::contender::Contender;
use crate::bench::figures::per;
use crate::bench::ground::Ground;
use crate::bench::interrupt::Interrupt;
use crate::bench::nbd::{Programs, serve_qemu, warm};
use crate::bench::report::Report;

/// How many writes are counted, and how long at most.
const COUNTED: Limit = Limit {
    time: Duration::from_secs(5),
    writes: 1024,
};
/// When what a load needs has been written.
const WRITTEN: Limit = Limit {
    time: Duration::MAX,
    writes: u64::MAX,
};

/// Who is measured, and how.
pub(in crate::bench) struct Setup<'a> {
    pub(in crate::bench) programs: &'a Programs,
    pub(in crate::bench) contenders: &'a [Contender],
    pub(in crate::bench) interrupt: &'a Interrupt,
    /// How often each is asked, and how long.
    pub(in crate::bench) runs: usize,
    pub(in crate::bench) run: Duration,
    /// The size of disks that are allocated, and of bases.
    pub(in crate::bench) filled_bytes: u64,
}

impl Setup<'_> {
    /// The contenders' columns.
    pub(in crate::bench) fn names(&self) -> Vec<&'static str> {
        self.contenders.iter().map(|one| one.name).collect()
    }
}

/// What is measured on one file system.
pub(in crate::bench) struct Bench<'a> {
    setup: &'a Setup<'a>,
    directory: &'a Path,
    images: Images<'a>,
    pub(in crate::bench) ground: Ground,
    /// Absent where they cannot be counted.
    syncs: Option<HostSyncs>,
}

/// What was measured with a load, for each contender that takes it.
pub(in crate::bench) struct Row {
    pub(in crate::bench) load: Load,
    pub(in crate::bench) measured: Vec<Option<Measured>>,
}

/// What was measured of a contender with a load.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Measured {
    /// Writes a second, of each run.
    pub(in crate::bench) rates: Vec<f64>,
    /// How long each write took, with its flush, in microseconds, of all runs.
    pub(super) latencies_us: Vec<f64>,
    pub(in crate::bench) counts: Counts,
    /// Of the server's whole life, by itself.
    pub(in crate::bench) own: Option<OwnCounts>,
}

/// What a write with its flush cost, on average; absent where it cannot be counted.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bench) struct Counts {
    pub(in crate::bench) host_syncs: Option<f64>,
    pub(in crate::bench) device_flushes: Option<f64>,
    pub(in crate::bench) device_bytes: Option<f64>,
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

impl<'a> Bench<'a> {
    /// Prepares to measure in a directory, and notes what cannot be counted there.
    pub(in crate::bench) fn prepare(
        setup: &'a Setup<'a>,
        directory: &'a Path,
        report: &mut Report,
    ) -> Result<Self> {
        let ground = Ground::below(directory)?;
        let name = &ground.file_system;
        let syncs = HostSyncs::prepare(name, directory)
            .inspect_err(|error| report.leave_out(format!("{name}, host syncs: {error:#}")))
            .ok();
        if ground.counts().is_none() {
            report.leave_out(format!("{name}, counts of its device: it has none"));
        }
        Ok(Self {
            setup,
            directory,
            images: Images::new(setup.programs, directory, setup.filled_bytes)?,
            ground,
            syncs,
        })
    }

    /// How much of a disk that is allocated is there on a base too.
    pub(in crate::bench) fn allocated_bytes(&self) -> u64 {
        self.images.allocated_bytes()
    }

    /// Measures everyone with a load.
    pub(in crate::bench) fn measure(&self, load: Load) -> Result<Row> {
        let entrants = self.setup.contenders.iter().map(|contender| {
            let taken = load.suits(contender);
            let entrant = taken.then(|| self.start(contender, &load));
            entrant.transpose().with_context(|| contender.name)
        });
        let mut entrants: Vec<Option<Entrant>> = entrants.collect::<Result<_>>()?;
        // The first round warms up and does not count.
        for round in 0..=self.setup.runs {
            for turn in 0..entrants.len() {
                // Each comes first in its turn, should that matter.
                let n = (round + turn) % self.setup.contenders.len();
                if let Some(entrant) = &mut entrants[n] {
                    let limit = Limit {
                        time: self.setup.run,
                        writes: u64::MAX,
                    };
                    let done = self.run(entrant, &load, limit);
                    let done = done.with_context(|| self.setup.contenders[n].name)?;
                    if round > 0 {
                        entrant.rates.push(done.writes() / done.seconds);
                        entrant.latencies_us.extend(done.latencies_us);
                    }
                }
            }
        }
        let mut measured = Vec::new();
        for (entrant, contender) in entrants.into_iter().zip(self.setup.contenders) {
            let finished = entrant.map(|entrant| self.finish(entrant, &load));
            measured.push(finished.transpose().with_context(|| contender.name)?);
        }
        Ok(Row { load, measured })
    }

    fn start(&self, contender: &Contender, load: &Load) -> Result<Entrant> {
        self.setup.interrupt.check()?;
        let (image, server, statistics) = self.serve(contender, load)?;
        Ok(Entrant {
            clients: Clients::connect(server.socket(), load)?,
            server,
            statistics,
            rates: Vec::new(),
            latencies_us: Vec::new(),
            image,
        })
    }

    /// Has a contender serve an image that is as the load needs it. Ours writes its statistics to
    /// the path returned, at its end.
    pub(in crate::bench) fn serve(
        &self,
        contender: &Contender,
        load: &Load,
    ) -> Result<(Image, Server, Option<PathBuf>)> {
        let image = self.images.make(contender, load)?;
        if let Some(missing) = &image.missing {
            let (server, _) = serve(contender, self.setup.programs, &image.path)?;
            let load = Load {
                flush: false,
                ..Load::new(Target::NewInOrder, 64)
            };
            let mut clients = Clients::connect(server.socket(), &load)?;
            clients.run(&load, missing, WRITTEN, self.setup.interrupt)?;
            drop(clients);
            server.stop()?;
            warm(&image.path)?;
        }
        let (server, statistics) = serve(contender, self.setup.programs, &image.path)?;
        Ok((image, server, statistics))
    }

    /// One run, with no more than its share of the places.
    fn run(&self, entrant: &mut Entrant, load: &Load, limit: Limit) -> Result<Done> {
        let places = &entrant.image.places;
        // The first round and the pass that counts need theirs too.
        let share = places.share(self.setup.runs + 2);
        let limit = Limit {
            writes: limit.writes.min(share),
            ..limit
        };
        entrant
            .clients
            .run(load, places, limit, self.setup.interrupt)
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
            host_syncs: syncs.map(|syncs| per(syncs, done.writes())),
            device_flushes: device.map(|device| per(device.flushes, done.writes())),
            device_bytes: device.map(|device| per(device.written_bytes, done.writes())),
        })
    }
}

/// Starts a server. Ours writes its statistics to the path returned, at its end.
pub(in crate::bench) fn serve(
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
