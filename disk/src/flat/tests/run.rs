//! Runs programs, and looks at all that they read.

use std::cell::RefCell;
use std::rc::Rc;
use std::thread;

use super::program::{Action, Generator, Step};
use super::rig::{Image, Rig};
use crate::test_support::content::SECTOR_BYTES;
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
        let (disk, witness) = (self.disk(), &self.witness);
        let index = usize::try_from(sectors.min(self.size_sectors())).expect("small");
        let stamps = vec![0; witness.sectors().len() - index];
        witness.note(Event::SizeBegin { sectors });
        let resized = disk.resize(sectors * 512);
        if witness.change(index, stamps, true, resized).await {
            witness.note(Event::SizeEnd);
            // All of it is durable, what was there before included.
            witness.durably(async { Ok(()) }).await;
        }
    }

    async fn set_base(&self) {
        let disk = self.disk();
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

    /// Reads everything, closes the image, and reads it again.
    pub(super) async fn finish(&self) {
        self.witness.read_all(&*self.disk()).await;
        self.reopen().await;
        self.witness.read_all(&*self.disk()).await;
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
