//! A record of what happened to simulated disks, to cut the power at any moment of it afterwards.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use super::SimulatedStorage;
use super::ledger::{Event, Ledger};
use crate::rng::Rng;

/// What happened to some disks, step by step: each change that reached a disk's cache, and the end
/// of each sync and of each barrier.
///
/// A test runs its program once, noting [`Recording::steps`] whenever something was promised to it,
/// and then looks at as many power cuts as it likes, at every step: whatever was promised by then
/// must hold.
pub struct Recording {
    log: Log,
    disks: Vec<Disk>,
    /// How many steps [`Disk::now`] has seen.
    now: usize,
}

/// The steps so far, each with the number of its disk.
type Log = Rc<RefCell<Vec<(usize, Event)>>>;

struct Disk {
    path: Rc<Path>,
    first: Ledger,
    now: Ledger,
}

/// Where a disk tells what happens to it.
pub(super) struct Recorder {
    disk: usize,
    log: Log,
}

impl Recorder {
    pub(super) fn record(&self, event: Event) {
        self.log.borrow_mut().push((self.disk, event));
    }
}

impl Recording {
    /// Records what happens to these disks from now on, in place of any earlier recording of them.
    pub fn start(disks: &[&SimulatedStorage]) -> Self {
        let log = Log::default();
        let start = |(disk, storage): (usize, &&SimulatedStorage)| {
            let log = Rc::clone(&log);
            let first = storage.record(Recorder { disk, log });
            Disk {
                path: Rc::clone(&storage.path),
                now: first.clone(),
                first,
            }
        };
        let disks = disks.iter().enumerate().map(start).collect();
        Self { log, disks, now: 0 }
    }

    /// How many steps there have been.
    pub fn steps(&self) -> usize {
        self.log.borrow().len()
    }

    /// What a step was, the first being 0, for the message of a failing test.
    ///
    /// # Panics
    /// When there was no such step.
    pub fn describe(&self, step: usize) -> String {
        let (disk, event) = &self.log.borrow()[step];
        let path = self.disks[*disk].path.display();
        match event {
            Event::Applied { change, .. } => format!("{path}: {change}"),
            Event::Synced(covered) => format!("{path}: sync of {} changes", covered.len()),
            Event::Ordered(covered) => format!("{path}: barrier after {} changes", covered.len()),
            Event::Lost(lost) => format!("{path}: failed sync that lost {} changes", lost.len()),
        }
    }

    /// What is left of each disk, in the order in which they were given, if the power was cut after
    /// the first `steps` steps. The seed says what of the changes that were not durable. It is
    /// cheap if `steps` is no less than the last time, for there it goes on.
    ///
    /// # Panics
    /// When there have not been so many.
    #[must_use]
    pub fn power_cut(&mut self, steps: usize, seed: u64) -> Vec<SimulatedStorage> {
        self.go_to(steps);
        let mut rng = Rng::new(seed);
        let cut = |disk: &Disk| {
            let left = disk.now.power_cut(&mut rng);
            SimulatedStorage::from_image(left, Rng::new(rng.next())).named(&disk.path)
        };
        self.disks.iter().map(cut).collect()
    }

    fn go_to(&mut self, steps: usize) {
        if steps < self.now {
            for disk in &mut self.disks {
                disk.now = disk.first.clone();
            }
            self.now = 0;
        }
        for (disk, event) in &self.log.borrow()[self.now..steps] {
            self.disks[*disk].now.happened(event);
        }
        self.now = steps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::seeded;
    use crate::{Backend, Buffers, Executor, Storage};

    async fn write(storage: &SimulatedStorage, offset: u64, byte: u8) {
        let bytes = Buffers::from_vec([byte; 512]);
        storage.write_at(offset, bytes).await.unwrap();
    }

    /// An intent goes to the log and is durable before the data is touched, and is withdrawn when
    /// the data is durable: two disks, of which each is wrong without the other.
    async fn update(log: &SimulatedStorage, data: &SimulatedStorage, value: u8) {
        write(log, 0, value).await;
        log.sync().await.unwrap();
        write(data, 0, value).await;
        write(data, 4096, value).await;
        data.sync().await.unwrap();
        write(log, 0, 0).await;
        log.sync().await.unwrap();
    }

    #[test]
    fn disks_are_cut_at_the_same_moment() {
        seeded(20, |seed| {
            let log = SimulatedStorage::new(512, seed).named("log");
            let data = SimulatedStorage::new(8192, seed + 1).named("data");
            let mut recording = Recording::start(&[&log, &data]);
            let mut promised = vec![(0, 0)];
            Executor::with_backend(Backend::Simulated { seed })
                .unwrap()
                .run(async {
                    for value in 1..5 {
                        update(&log, &data, value).await;
                        promised.push((recording.steps(), value));
                    }
                });
            for steps in 0..=recording.steps() {
                let (_, floor) = *promised.iter().rfind(|(at, _)| *at <= steps).unwrap();
                for cut in 0..20 {
                    let left = recording.power_cut(steps, cut);
                    let (intent, data) = (left[0].to_bytes()[0], left[1].to_bytes());
                    let same = data[0] == data[4096];
                    let current = same && data[0] >= floor;
                    assert!(
                        current || intent == floor + 1,
                        "{}",
                        recording.describe(steps - 1)
                    );
                }
            }
        });
    }

    #[test]
    fn moments_come_in_any_order_and_are_the_same() {
        let storage = SimulatedStorage::new(8192, 1).named("disk");
        let mut recording = Recording::start(&[&storage]);
        Executor::with_backend(Backend::Simulated { seed: 1 })
            .unwrap()
            .run(async {
                write(&storage, 0, 1).await;
                storage.write_zeroes(4096, 100, false).await.unwrap();
                storage.sync().await.unwrap();
                storage.set_len(4096).await.unwrap();
                storage.barrier().await.unwrap();
            });
        let described: Vec<_> = (0..5).map(|step| recording.describe(step)).collect();
        let expected = [
            "disk: write of 512 bytes at 0",
            "disk: 100 bytes at 4096 zeroed",
            "disk: sync of 2 changes",
            "disk: resize to 4096 bytes",
            "disk: barrier after 1 changes",
        ];
        assert_eq!(described, expected);
        let mut cut = |steps, seed| recording.power_cut(steps, seed).remove(0).to_bytes();
        let forward: Vec<_> = (0..=5).map(|steps| cut(steps, 3)).collect();
        let mut backward: Vec<_> = (0..=5).rev().map(|steps| cut(steps, 3)).collect();
        backward.reverse();
        assert!(forward == backward);
        assert!(forward[0] == [0; 8192]);
        let sizes: Vec<_> = (0..50).map(|seed| cut(4, seed).len()).collect();
        assert!(sizes.contains(&8192) && sizes.contains(&4096));
    }
}
