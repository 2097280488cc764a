//! Requests to the servers, in turns.

use anyhow::{Context as _, Result};

use super::load;
use crate::bench::contender::{Contender, Format};
use crate::bench::disk::{Client, Load, Plan, Sample, Session};
use crate::bench::sync::{self, Bench, Measured, Setup, Target};

/// What was measured with a load, for each contender that takes it.
pub(super) struct Row {
    pub(super) name: String,
    /// Whether each write is followed by a flush.
    pub(super) flush: bool,
    pub(super) cells: Vec<Option<Cell>>,
}

/// What was measured of a contender with a load.
pub(super) struct Cell {
    /// Requests a second, of each run.
    pub(super) rates: Vec<f64>,
    /// What a request took of a processor, of each run, where that was measured.
    pub(super) cpu_us: Option<Vec<f64>>,
    /// Where writes were counted: what they cost.
    pub(super) writes: Option<Measured>,
}

/// The loads that are wanted, and what came of them.
pub(super) struct Requests<'a> {
    setup: &'a Setup<'a>,
    bench: &'a Bench<'a>,
    only: &'a str,
    pub(super) rows: Vec<Row>,
}

impl<'a> Requests<'a> {
    /// Those whose names hold `only`.
    pub(super) fn new(setup: &'a Setup<'a>, bench: &'a Bench<'a>, only: &'a str) -> Self {
        Self {
            setup,
            bench,
            only,
            rows: Vec::new(),
        }
    }

    /// Measures everyone.
    pub(super) fn measure(&mut self) -> Result<()> {
        self.ask("", load::requests(), |_| Some(Target::Allocated))?;
        // A raw image has no base: it stands for what a read of the base's own file costs.
        let reads = load::requests().filter(|load| !load.write);
        self.ask(", base", reads, |contender| {
            let is_raw = contender.format == Format::Raw;
            let on_base = contender.on_base.then_some(Target::OverBacking);
            on_base.or(is_raw.then_some(Target::Allocated))
        })?;
        for load in load::writes() {
            let name = load::name(&load);
            if name.contains(self.only) {
                eprintln!("xtask: {}, {name}", self.bench.ground.file_system);
                let row = self.bench.measure(load).with_context(|| name.clone())?;
                let cells = row.measured.into_iter();
                self.rows.push(Row {
                    name,
                    flush: load.flush,
                    cells: cells.map(|one| one.map(Cell::of_writes)).collect(),
                });
            }
        }
        Ok(())
    }

    /// Has contenders serve images that suit a target, if there is one for them, and asks them.
    fn ask(
        &mut self,
        suffix: &str,
        loads: impl Iterator<Item = Load>,
        target: impl Fn(&Contender) -> Option<Target>,
    ) -> Result<()> {
        let name = |load: &Load| format!("{load}{suffix}");
        let loads: Vec<Load> = loads
            .filter(|load| name(load).contains(self.only))
            .collect();
        if loads.is_empty() {
            return Ok(());
        }
        let (mut images, mut sessions) = (Vec::new(), Vec::new());
        for contender in self.setup.contenders {
            if let Some(target) = target(contender) {
                let (image, session) = self.start(contender, target)?;
                images.push(image);
                sessions.push(session);
            }
        }
        let plan = Plan {
            protocol: &format!("NBD{suffix}"),
            loads,
            runs: self.setup.runs,
            run: self.setup.run,
            interrupt: self.setup.interrupt,
        };
        for (load, samples) in plan.measure(sessions)? {
            let mut samples = samples.iter();
            let contenders = self.setup.contenders.iter();
            let cells = contenders.map(|contender| {
                let samples = target(contender).and_then(|_| samples.next());
                samples.map(|samples| Cell::of_samples(samples))
            });
            self.rows.push(Row {
                name: name(&load),
                flush: false,
                cells: cells.collect(),
            });
        }
        Ok(())
    }

    fn start(&self, contender: &Contender, target: Target) -> Result<(sync::Image, Session)> {
        let load = sync::Load::new(target, 64);
        let started = self.bench.serve(contender, &load);
        let (image, server, _) = started.with_context(|| contender.name)?;
        let client = Client::connect(server.socket())?;
        let client = client.within(self.bench.allocated_bytes());
        Ok((image, Session::Nbd(server, client)))
    }
}

impl Cell {
    fn of_samples(samples: &[Sample]) -> Self {
        Self {
            rates: samples.iter().map(|sample| sample.rate).collect(),
            cpu_us: Some(samples.iter().map(|sample| sample.cpu_us).collect()),
            writes: None,
        }
    }

    fn of_writes(measured: Measured) -> Self {
        Self {
            rates: measured.rates.clone(),
            cpu_us: None,
            writes: Some(measured),
        }
    }
}
