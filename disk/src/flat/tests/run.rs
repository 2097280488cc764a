//! Runs programs, and looks at all that they read.

use std::cell::RefCell;
use std::rc::Rc;
use std::thread;

use super::program::{Action, Generator, Step};
use super::rig::{Image, Rig};
use crate::flat::NewSnapshot;
use crate::test_support::content::{SECTOR_BYTES, Stamp};
use crate::test_support::history::{Event, History};
use crate::test_support::{Witness, join_all, program_steps};
use crate::{Buffers, Content, Disk, Error, Raw, Request};

/// A run of a program.
pub(super) struct Run<'a> {
    rig: &'a Rig,
    disk: RefCell<Rc<Image>>,
    pub(super) witness: Witness<'a>,
    trace: Trace<'a>,
}

/// Says what a program did until it failed.
struct Trace<'a> {
    rig: &'a Rig,
    steps: RefCell<Vec<Step>>,
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let rig = self.rig;
            eprintln!(
                "{} sectors, blocks of 2^{} bytes, {:?}, order {}, {:?}, base {:?}",
                rig.size_sectors,
                rig.block_bits,
                rig.compact,
                rig.order,
                rig.copying,
                rig.base_reference()
            );
            for (n, step) in self.steps.borrow().iter().enumerate() {
                eprintln!("{n}: {step:?}");
            }
        }
    }
}

impl<'a> Run<'a> {
    /// Opens the image.
    pub(super) async fn start(rig: &'a Rig, clock: impl Fn() -> usize + 'a) -> Self {
        let disk = rig.open().await.unwrap();
        Self {
            rig,
            disk: RefCell::new(Rc::new(disk)),
            witness: Witness::new(rig.sectors(), &rig.initial(), rig.size_sectors, clock),
            trace: Trace {
                rig,
                steps: RefCell::default(),
            },
        }
    }

    /// Everything that happened, with the number of steps there had been.
    pub(super) fn into_log(self) -> Vec<(usize, Event)> {
        self.witness.into_log()
    }

    pub(super) fn into_history(self) -> History {
        self.witness.into_history()
    }

    pub(super) fn disk(&self) -> Rc<Image> {
        Rc::clone(&self.disk.borrow())
    }

    /// Runs so many steps, or as many as the environment says.
    pub(super) async fn steps(&self, generator: &mut Generator, count: u64) {
        for _ in 0..program_steps(count) {
            let step = generator.step(self.size_sectors());
            self.trace.steps.borrow_mut().push(step.clone());
            self.step(step).await;
        }
    }

    async fn step(&self, step: Step) {
        match step {
            Step::Batch(tasks) => {
                join_all(tasks.into_iter().map(async |task| {
                    for action in task {
                        self.action(action).await;
                    }
                }))
                .await;
            }
            Step::Resize(sectors) => self.resize(sectors).await,
            Step::SetBase => self.set_base().await,
            Step::Commit => self.commit().await,
            Step::Snapshot => self.snapshot().await,
            Step::Apply(choice) => {
                if let Some(name) = self.choose_snapshot(choice) {
                    self.apply(&name).await;
                }
            }
            Step::Delete(choice) => {
                if let Some(name) = self.choose_snapshot(choice) {
                    self.delete(&name).await;
                }
            }
            Step::Reopen if self.witness.is_tolerant() => {}
            Step::Reopen => self.reopen().await,
        }
    }

    fn size_sectors(&self) -> u64 {
        self.disk.borrow().properties().size_bytes / 512
    }

    async fn action(&self, action: Action) {
        let (disk, witness) = (self.disk(), &self.witness);
        let len = |sectors: usize| (sectors * SECTOR_BYTES) as u64;
        match action {
            Action::Read(range) => witness.read(&*disk, range).await,
            Action::Write(range) => {
                let (stamps, bytes) = witness.fresh(&range);
                let request = Request::write(witness.offset(range.start), bytes);
                let written = disk.submit(request);
                witness.change(range.start, stamps, true, written).await;
            }
            Action::Zero { sectors, unmap } => {
                let offset = witness.offset(sectors.start);
                let request = Request::write_zeroes(offset, len(sectors.len()), unmap);
                let stamps = vec![0; sectors.len()];
                let zeroed = disk.submit(request);
                witness.change(sectors.start, stamps, true, zeroed).await;
            }
            Action::Discard(range) => {
                let offset = witness.offset(range.start);
                let discarded = disk.submit(Request::discard(offset, len(range.len())));
                let stamps = vec![0; range.len()];
                witness.change(range.start, stamps, false, discarded).await;
            }
            Action::Flush => drop(witness.durably(disk.submit(Request::flush())).await),
        }
    }

    async fn resize(&self, sectors: u64) {
        let disk = self.disk();
        let index = usize::try_from(sectors.min(self.size_sectors())).expect("small");
        let stamps = vec![0; self.witness.sectors().len() - index];
        let resized = disk.resize(sectors * 512);
        self.switch(index, stamps, sectors, resized).await;
    }

    /// Changes the size and the sectors from `first` on, durably.
    async fn switch(
        &self,
        first: usize,
        stamps: Vec<Stamp>,
        sectors: u64,
        switched: impl Future<Output = Result<(), Error>>,
    ) {
        let witness = &self.witness;
        witness.note(Event::SizeBegin { sectors });
        if witness.change(first, stamps, true, switched).await {
            witness.note(Event::SizeEnd);
            // All of it is durable, what was there before included.
            witness.durably(async { Ok(()) }).await;
        }
    }

    fn choose_snapshot(&self, choice: usize) -> Option<String> {
        let history = self.witness.history();
        let names: Vec<_> = history.snapshots().keys().collect();
        (!names.is_empty()).then(|| names[choice % names.len()].clone())
    }

    /// What every sector has, once that is certain; 0 past the disk's end.
    fn stamps(&self) -> Vec<Stamp> {
        let (size, history) = (self.size_sectors(), self.witness.history());
        let sectors = self.witness.sectors().iter().enumerate();
        let stamp = |(n, sector): (usize, &u64)| if *sector < size { history.newest(n) } else { 0 };
        sectors.map(stamp).collect()
    }

    async fn snapshot(&self) {
        let (disk, witness) = (self.disk(), &self.witness);
        if disk.snapshots().len() >= self.rig.snapshots_max() {
            return;
        }
        witness.read_all(&*disk).await;
        let name = format!("snapshot {}", witness.number());
        let (stamps, sectors) = (self.stamps(), self.size_sectors());
        witness.note(Event::SnapshotBegin {
            name: name.clone(),
            stamps,
            sectors,
        });
        let new = NewSnapshot {
            name: name.clone(),
            ..NewSnapshot::default()
        };
        if witness.durably(disk.create_snapshot(new)).await {
            witness.note(Event::SnapshotEnd { name, exists: true });
        }
    }

    async fn apply(&self, name: &str) {
        let snapshot = self.witness.history().snapshots()[name].clone();
        let disk = self.disk();
        let applied = disk.apply_snapshot(name);
        self.switch(0, snapshot.stamps, snapshot.sectors, applied)
            .await;
    }

    async fn delete(&self, name: &str) {
        let (disk, name) = (self.disk(), name.to_owned());
        self.witness.note(Event::DeleteBegin { name: name.clone() });
        if self.witness.durably(disk.delete_snapshot(&name)).await {
            self.witness.note(Event::SnapshotEnd {
                name,
                exists: false,
            });
        }
    }

    async fn set_base(&self) {
        let disk = self.disk();
        if !disk.snapshots().is_empty() {
            let refused = disk.set_base(self.rig.base_reference()).await;
            refused.unwrap_err();
            return;
        }
        let has_base = disk.header().base.is_some();
        if has_base && self.rig.copying.prefetch.is_some() {
            // It may stand alone when its turn comes.
            return;
        }
        let base = self.rig.base_reference().filter(|_| has_base);
        self.witness.durably(disk.set_base(base)).await;
    }

    /// Moves what the image holds to its base, where there is room for all of it.
    async fn commit(&self) {
        let disk = self.disk();
        if !disk.snapshots().is_empty() {
            disk.empty().await.unwrap_err();
            return;
        }
        let header = disk.header();
        // With prefetch, it may stand alone meanwhile.
        let has_base = header.base.is_some() && self.rig.copying.prefetch.is_none();
        let base = self.rig.base.as_ref().filter(|_| has_base);
        let Some(base) = base.filter(|_| header.base_bytes >= header.size_bytes) else {
            return;
        };
        let pieces = held_by(&disk).await;
        let raw = Raw::new(base.clone()).unwrap();
        for (offset, buffers) in pieces {
            raw.submit(Request::write(offset, buffers)).await.unwrap();
        }
        raw.submit(Request::flush()).await.unwrap();
        self.witness.durably(disk.empty()).await;
    }

    /// Closes the image, which must leave it without any fault.
    pub(super) async fn close(&self) {
        let disk = self.disk();
        let closed = self.witness.durably(disk.close()).await;
        assert!(closed, "cannot close");
        let report = self.rig.check().await;
        assert_eq!(report.exit_status(), 0, "{report:#?}");
    }

    async fn reopen(&self) {
        self.close().await;
        let disk = self.rig.open().await.unwrap();
        self.disk.replace(Rc::new(disk));
    }

    async fn look_at_snapshots(&self) {
        let history = self.witness.history().clone();
        self.rig.look_at_snapshots(&history).await;
    }

    /// Reads everything, closes the image, and reads it again. Looks at every snapshot, goes back to
    /// it, and deletes it.
    pub(super) async fn finish(&self) {
        self.witness.read_all(&*self.disk()).await;
        self.reopen().await;
        self.witness.read_all(&*self.disk()).await;
        while let Some(name) = self.choose_snapshot(0) {
            self.close().await;
            self.look_at_snapshots().await;
            let disk = self.rig.open().await.unwrap();
            self.disk.replace(Rc::new(disk));
            self.apply(&name).await;
            self.witness.read_all(&*self.disk()).await;
            self.delete(&name).await;
            self.witness.read_all(&*self.disk()).await;
        }
        self.close().await;
    }

    /// As [`Run::finish`], after requests that failed: they may have left leaks.
    pub(super) async fn finish_with_leaks(&self) {
        self.witness.read_all(&*self.disk()).await;
        let disk = self.disk();
        let closed = self.witness.durably(disk.close()).await;
        assert!(closed, "cannot close");
        let report = self.rig.check().await;
        assert_eq!((report.corruptions, report.check_errors), (0, 0));
        self.look_at_snapshots().await;
        let disk = self.rig.open().await.unwrap();
        self.disk.replace(Rc::new(disk));
        self.witness.read_all(&*self.disk()).await;
    }
}

/// What the image itself holds: offsets and content.
async fn held_by(disk: &Image) -> Vec<(u64, Buffers)> {
    let size_bytes = disk.properties().size_bytes;
    let (mut at, mut pieces) = (0, Vec::new());
    while at < size_bytes {
        let extent = disk.extent(at, size_bytes - at).await.unwrap();
        if extent.depth == 0 && extent.content != Content::Absent {
            let buffers = Buffers::zeroed(usize::try_from(extent.len).unwrap());
            let read: Result<(), Error> = disk.submit(Request::read(at, buffers.clone())).await;
            read.unwrap();
            pieces.push((at, buffers));
        }
        at += extent.len;
    }
    pieces
}
