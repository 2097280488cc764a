//! One run: a guest at work on one disk, for some virtual time.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use ::disk::{Backend, Error, Executor, Statistics};
use futures_util::future::{try_join, try_join_all};

use super::contender::{Contender, Images};
use super::guest::Guest;
use super::host::Device;
use super::neighbour::Neighbour;
use super::random::Random;
use super::workload::Load;

const SEED: u64 = 3;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) load: Load,
    pub(super) neighbour: Neighbour,
    pub(super) device: Device,
}

/// When a run ends, whichever comes first; operations that have begun are done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) duration: Duration,
    /// Operations; the workload has a limit of its own.
    pub(super) operations: u32,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    /// Operations in a second of virtual time.
    pub(super) rate: f64,
    /// Host syncs for each flush of the guest.
    pub(super) syncs_a_flush: f64,
    /// How often a journal was emptied.
    pub(super) checkpoints: u64,
}

impl Case {
    /// All there are. There is a second machine where the papers have one, and where its blocks are
    /// new: on others, no order of metadata makes a difference to it.
    pub(super) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for load in Load::ALL {
            let in_papers = [Load::Mail { aged: false }, Load::Database { aged: false }];
            let with_neighbours = in_papers.contains(&load);
            for neighbour in Neighbour::ALL {
                let is_alone = neighbour == Neighbour::Absent;
                let devices = Device::ALL
                    .into_iter()
                    .filter(|device| is_alone || with_neighbours && *device != Device::Nvme);
                cases.extend(devices.map(|device| Self {
                    load,
                    neighbour,
                    device,
                }));
            }
        }
        cases
    }

    /// Runs it on one disk; nothing comes of it where that cannot be.
    pub(super) fn run(
        self,
        contender: Contender,
        images: &mut Images,
        limit: Limit,
    ) -> Result<Option<Outcome>, Error> {
        let executor = Executor::with_backend(Backend::Simulated { seed: SEED })?;
        executor.run(async {
            let file = images.copy(contender, self.load.is_aged()).await?;
            let Some(disk) = contender.open(file.clone()).await? else {
                return Ok(None);
            };
            let guest = Guest::new(disk.clone(), self.load.is_aged());
            // The first flush syncs in any case.
            guest.flush().await?;
            let device = self.device.model();
            file.put_on(&device);
            let before = disk.statistics();
            let stop = Cell::new(false);
            let work = async {
                let rate = self.work(&guest, &executor, limit).await?;
                let after = disk.statistics();
                stop.set(true);
                Ok(Outcome {
                    rate,
                    syncs_a_flush: syncs_a_flush(&before, &after),
                    checkpoints: after.journal.checkpoints - before.journal.checkpoints,
                })
            };
            let (outcome, ()) = try_join(work, self.neighbour.work(&device, &stop)).await?;
            disk.close().await?;
            Ok(Some(outcome))
        })
    }

    /// Has all workers work, and says how many operations they do in a second.
    async fn work(self, guest: &Guest, executor: &Executor, limit: Limit) -> Result<f64, Error> {
        let now_ns = || executor.virtual_now_ns().unwrap_or(0);
        let start_ns = now_ns();
        let elapsed = || Duration::from_nanos(now_ns() - start_ns);
        let running = self.load.start();
        let operations_max = limit.operations.min(self.load.operations_max());
        let begun = Cell::new(0);
        let worker = async |number: u64| {
            let mut random = Random::new(SEED + number);
            while begun.get() < operations_max && elapsed() < limit.duration {
                begun.set(begun.get() + 1);
                running.operation(guest, &mut random).await?;
            }
            Ok(())
        };
        let worker = &worker;
        try_join_all((0..self.load.workers()).map(async |number| worker(number).await)).await?;
        Ok(f64::from(begun.get()) / elapsed().as_secs_f64())
    }
}

fn syncs_a_flush(before: &Statistics, after: &Statistics) -> f64 {
    let count =
        |after: u64, before: u64| f64::from(u32::try_from(after - before).unwrap_or(u32::MAX));
    let flushes = count(after.flushes, before.flushes);
    count(after.host_syncs, before.host_syncs) / flushes.max(1.0)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            load,
            neighbour,
            device,
        } = self;
        write!(f, "{load:<14} {neighbour:<17} {device:<8}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::disk::Order;

    #[test]
    fn less_to_sync_and_less_to_write_is_faster() {
        let limit = Limit {
            duration: Duration::from_secs(10),
            operations: 100,
        };
        let mut images = Images::default();
        for device in Device::ALL {
            let case = Case {
                load: Load::Append,
                neighbour: Neighbour::Absent,
                device,
            };
            let mut rate = |contender| {
                let outcome = case.run(contender, &mut images, limit);
                outcome.unwrap().unwrap().rate
            };
            let journal = rate(Contender::Ours(Order::Journal));
            let ordered = rate(Contender::Ours(Order::Ordered));
            assert!(
                journal > ordered,
                "{case}: journal {journal}, ordered {ordered}"
            );
            let clusters = rate(Contender::Clusters);
            assert!(
                ordered > clusters,
                "{case}: {ordered}, by the cluster {clusters}"
            );
        }
    }

    /// Both machines wait for the same device.
    #[test]
    fn neighbours_take_time() {
        let limit = Limit {
            duration: Duration::from_secs(5),
            operations: 100,
        };
        let mut images = Images::default();
        let [alone, sequential, random] = Neighbour::ALL.map(|neighbour| {
            let case = Case {
                load: Load::Mail { aged: false },
                neighbour,
                device: Device::Hdd,
            };
            let outcome = case.run(Contender::Raw, &mut images, limit);
            outcome.unwrap().unwrap().rate
        });
        assert!(
            alone > sequential && alone > random,
            "{alone} {sequential} {random}"
        );
    }
}
