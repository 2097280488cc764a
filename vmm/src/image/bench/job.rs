//! The requests of a benchmark, in flight.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::Result;
use disk::{Buffers, Disk, Request, yield_now};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::super::interrupt::Interrupt;
use super::latencies::Latencies;
use super::positions::Positions;

/// After so many requests the host gets its turn, even if none had to wait for it.
const TURN_REQUESTS: u64 = 32;

/// What is done to a disk.
pub(super) struct Job<'a> {
    disk: &'a dyn Disk,
    interrupt: &'a Interrupt,
    plan: Plan,
    start: Instant,
    positions: RefCell<Positions>,
    /// Memory that no request uses.
    free: RefCell<Vec<Buffers>>,
    /// Requests that were begun.
    begun: Cell<u64>,
    requests: RefCell<Latencies>,
    flushes: RefCell<Latencies>,
}

/// How many requests, of which kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) count: u64,
    /// After this, no request is begun.
    pub(super) time_max: Option<Duration>,
    /// How many are in flight at a time.
    pub(super) depth: usize,
    pub(super) buffer_bytes: u64,
    /// What is written; absent: they read.
    pub(super) pattern: Option<u8>,
    /// After how many requests there is a flush.
    pub(super) flush_interval: Option<u64>,
    /// Whether a flush waits for the requests in flight, and those to come for it.
    pub(super) drain: bool,
}

/// What was done.
pub(super) struct Done {
    pub(super) requests: Latencies,
    pub(super) flushes: Latencies,
    pub(super) time: Duration,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        disk: &'a dyn Disk,
        interrupt: &'a Interrupt,
        plan: Plan,
        positions: Positions,
    ) -> Self {
        Self {
            disk,
            interrupt,
            plan,
            start: Instant::now(),
            positions: RefCell::new(positions),
            free: RefCell::default(),
            begun: Cell::new(0),
            requests: RefCell::default(),
            flushes: RefCell::default(),
        }
    }

    /// Does all of it, or what there is time for until somebody wants the program to end.
    pub(super) async fn run(self) -> Result<Done> {
        let batch = self.plan.flush_interval.filter(|_| self.plan.drain);
        while self.goes_on() {
            let left = self.plan.count - self.begun.get();
            let batch = batch.filter(|batch| *batch <= left);
            self.batch(batch.unwrap_or(left)).await?;
            // What the time cut short is flushed too: it is part of what was asked for.
            if batch.is_some() && self.interrupt.check().is_ok() {
                self.flush().await?;
            }
        }
        Ok(Done {
            time: self.start.elapsed(),
            requests: self.requests.into_inner(),
            flushes: self.flushes.into_inner(),
        })
    }

    fn goes_on(&self) -> bool {
        let is_early = |max| self.start.elapsed() < max;
        self.begun.get() < self.plan.count
            && self.plan.time_max.is_none_or(is_early)
            && self.interrupt.check().is_ok()
    }

    /// Does `count` requests.
    async fn batch(&self, count: u64) -> Result<()> {
        let end = self.begun.get() + count;
        let mut running = FuturesUnordered::new();
        let mut done = 0_u64;
        loop {
            while running.len() < self.plan.depth && self.begun.get() < end && self.goes_on() {
                self.begun.set(self.begun.get() + 1);
                running.push(self.request(self.begun.get()));
            }
            match running.next().await {
                Some(result) => result?,
                None => return Ok(()),
            }
            done += 1;
            if done.is_multiple_of(TURN_REQUESTS) {
                yield_now().await;
            }
        }
    }

    /// Does the `number`th request, and the flush behind it if that waits for no others.
    async fn request(&self, number: u64) -> Result<()> {
        // Those that were begun together take their turns, and memory at that.
        if self.interrupt.check().is_err() {
            return Ok(());
        }
        let free = self.free.borrow_mut().pop();
        let buffers = free.map_or_else(|| self.memory(), Ok)?;
        let offset = self.positions.borrow_mut().next();
        let request = match self.plan.pattern {
            Some(_) => Request::write(offset, buffers.clone()),
            None => Request::read(offset, buffers.clone()),
        };
        let start = Instant::now();
        self.disk.submit(request).await?;
        self.requests.borrow_mut().add(start.elapsed());
        self.free.borrow_mut().push(buffers);
        match self.plan.flush_interval {
            Some(interval) if !self.plan.drain && number.is_multiple_of(interval) => {
                self.flush().await
            }
            _ => Ok(()),
        }
    }

    async fn flush(&self) -> Result<()> {
        let start = Instant::now();
        self.disk.submit(Request::flush()).await?;
        self.flushes.borrow_mut().add(start.elapsed());
        Ok(())
    }

    fn memory(&self) -> Result<Buffers> {
        let buffers = Buffers::zeroed(usize::try_from(self.plan.buffer_bytes)?);
        // Zeros too: memory that was never written is one page of the kernel, always in a cache.
        buffers.fill(self.plan.pattern.unwrap_or(0));
        Ok(buffers)
    }
}
