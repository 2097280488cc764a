//! Runs programs, and looks at all that they read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::program::{Action, Generator, Step};
use super::rig::{Image, Rig};
use crate::qcow2::NewSnapshot;
use crate::test_support::content::{SECTOR_BYTES, Stamp};
use crate::test_support::history::{Event, History};
use crate::test_support::{Witness, join_all};
use crate::{Buffers, Content, DedupHint, Disk, Error, Request};

/// A run of a program.
pub(super) struct Run<'a> {
    rig: &'a Rig,
    disk: RefCell<Rc<Image>>,
    witness: Witness<'a>,
}

impl<'a> Run<'a> {
    /// Opens the image.
    pub(super) async fn start(rig: &'a Rig, clock: impl Fn() -> usize + 'a) -> Self {
        let disk = rig.open().await.unwrap();
        let (geometry, sectors) = (&rig.geometry, rig.geometry.sectors().collect());
        let size_sectors = geometry.size_sectors();
        Self {
            rig,
            disk: RefCell::new(Rc::new(disk)),
            witness: Witness::new(sectors, &geometry.initial(), size_sectors, clock),
        }
    }

    /// From now on, requests may fail.
    pub(super) fn tolerate_errors(&mut self) {
        self.witness.tolerate_errors(true);
    }

    /// From now on, no request may fail.
    pub(super) fn forbid_errors(self) -> Self {
        self.witness.tolerate_errors(false);
        self
    }

    pub(super) fn disk(&self) -> Rc<Image> {
        Rc::clone(&self.disk.borrow())
    }

    /// Everything that happened, with the number of steps there had been.
    pub(super) fn into_log(self) -> Vec<(usize, Event)> {
        self.witness.into_log()
    }

    pub(super) fn into_history(self) -> History {
        self.witness.into_history()
    }

    /// Runs so many steps.
    pub(super) async fn steps(
        &self,
        generator: &mut Generator<'_>,
        count: u64,
        trace: &RefCell<Vec<Step>>,
    ) {
        for _ in 0..count {
            generator.set_size(self.size_sectors());
            let step = generator.step();
            trace.borrow_mut().push(step.clone());
            self.step(step).await;
        }
    }

    pub(super) async fn step(&self, step: Step) {
        match step {
            Step::Batch(tasks) => {
                join_all(tasks.into_iter().map(async |task| {
                    for action in task {
                        self.action(action).await;
                    }
                }))
                .await;
            }
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
            Step::Resize(sectors) => self.resize(sectors).await,
            Step::SetBacking => self.set_backing().await,
            Step::Commit => self.commit().await,
            Step::Reopen if self.witness.is_tolerant() => {}
            Step::Reopen => self.reopen().await,
        }
    }

    pub(super) fn size_sectors(&self) -> u64 {
        self.disk.borrow().properties().size_bytes / 512
    }

    async fn action(&self, action: Action) {
        match action {
            Action::Read(range) => self.witness.read(&*self.disk(), range).await,
            Action::Write(range) => {
                let (stamps, bytes) = self.witness.fresh(&range);
                self.write(range.start, stamps, bytes, DedupHint::None)
                    .await;
            }
            Action::Again { sectors, from } => {
                let (stamps, bytes) = self.witness.again(from, sectors.len());
                self.write(sectors.start, stamps, bytes, DedupHint::None)
                    .await;
            }
            Action::Unique(range) => {
                let (stamps, bytes) = self.witness.fresh(&range);
                self.write(range.start, stamps, bytes, DedupHint::NoDedup)
                    .await;
            }
            Action::ReadToCopy(range) => {
                let hint = DedupHint::Prefetch;
                self.witness.read_hinted(&*self.disk(), range, hint).await;
            }
            Action::Compressed(range) => {
                let (stamps, bytes) = self.witness.fresh(&range);
                let offset = self.witness.offset(range.start);
                self.change(range.start, stamps, true, async |disk| {
                    disk.write_compressed(offset, bytes).await
                })
                .await;
            }
            Action::Zero { sectors, unmap } => {
                let len = (sectors.len() * SECTOR_BYTES) as u64;
                let request = Request::write_zeroes(self.witness.offset(sectors.start), len, unmap);
                let stamps = vec![0; sectors.len()];
                self.change(sectors.start, stamps, true, async |disk| {
                    disk.submit(request).await
                })
                .await;
            }
            Action::Discard(range) => {
                let len = (range.len() * SECTOR_BYTES) as u64;
                let request = Request::discard(self.witness.offset(range.start), len);
                let stamps = vec![0; range.len()];
                self.change(range.start, stamps, false, async |disk| {
                    disk.submit(request).await
                })
                .await;
            }
            Action::Preallocate(range, how) => {
                let len = (range.len() * SECTOR_BYTES) as u64;
                let disk = self.disk();
                let done = disk.preallocate(self.witness.offset(range.start), len, how);
                self.witness.succeeded(done.await);
            }
            Action::Flush => drop(
                self.durably(async |disk| disk.submit(Request::flush()).await)
                    .await,
            ),
        }
    }

    async fn write(&self, first: usize, stamps: Vec<Stamp>, bytes: Buffers, hint: DedupHint) {
        let request = Request::write(self.witness.offset(first), bytes).with_dedup_hint(hint);
        self.change(first, stamps, true, async |disk| disk.submit(request).await)
            .await;
    }

    /// Changes sectors; whether that worked.
    async fn change(
        &self,
        first: usize,
        stamps: Vec<Stamp>,
        sure: bool,
        request: impl AsyncFnOnce(&Image) -> Result<(), Error>,
    ) -> bool {
        let disk = self.disk();
        self.witness
            .change(first, stamps, sure, request(&disk))
            .await
    }

    /// Does what makes everything durable that is done; whether that worked.
    async fn durably(&self, request: impl AsyncFnOnce(&Image) -> Result<(), Error>) -> bool {
        let disk = self.disk();
        self.witness.durably(request(&disk)).await
    }

    /// Reads all of the disk that the program uses.
    pub(super) async fn read_all(&self) {
        self.witness.read_all(&*self.disk()).await;
    }

    /// What every sector has, once that is certain; 0 past the disk's end.
    fn stamps(&self) -> Vec<Stamp> {
        let (size, history) = (self.size_sectors(), self.witness.history());
        let stamp = |(n, sector): (usize, &u64)| if *sector < size { history.newest(n) } else { 0 };
        self.witness
            .sectors()
            .iter()
            .enumerate()
            .map(stamp)
            .collect()
    }

    /// The sectors of the disk that are not zeros, once that is certain.
    pub(super) fn content(&self) -> BTreeMap<u64, Stamp> {
        let mut content = self.rig.geometry.backing_content();
        content.extend(self.witness.sectors().iter().copied().zip(self.stamps()));
        content.retain(|sector, stamp| *sector < self.size_sectors() && *stamp != 0);
        content
    }

    fn choose_snapshot(&self, choice: usize) -> Option<String> {
        let history = self.witness.history();
        let names: Vec<_> = history.snapshots().keys().collect();
        (!names.is_empty()).then(|| names[choice % names.len()].clone())
    }

    async fn snapshot(&self) {
        self.read_all().await;
        let name = format!("snapshot {}", self.witness.number());
        let (stamps, sectors) = (self.stamps(), self.size_sectors());
        let new = NewSnapshot {
            name: name.clone(),
            ..NewSnapshot::default()
        };
        self.witness.note(Event::SnapshotBegin {
            name: name.clone(),
            stamps,
            sectors,
        });
        let mut refused = false;
        let made = self
            .durably(async |disk| match disk.create_snapshot(new).await {
                Err(error) if self.is_refusal(&error) => {
                    refused = true;
                    Ok(())
                }
                result => result,
            })
            .await;
        if made {
            self.witness.note(Event::SnapshotEnd {
                name,
                exists: !refused,
            });
        }
    }

    /// Whether this is what some images cannot do.
    fn is_refusal(&self, error: &Error) -> bool {
        matches!(error, Error::Unsupported { .. }) && self.rig.geometry.may_refuse()
    }

    async fn apply(&self, name: &str) {
        let snapshot = self.witness.history().snapshots()[name].clone();
        self.switch(0, snapshot.stamps, snapshot.sectors, async |disk| {
            disk.apply_snapshot(name).await
        })
        .await;
    }

    async fn resize(&self, sectors: u64) {
        let kept = self
            .witness
            .sectors()
            .partition_point(|sector| *sector < sectors);
        let stamps = vec![0; self.witness.sectors().len() - kept];
        self.switch(kept, stamps, sectors, async |disk| {
            disk.resize(sectors * 512).await
        })
        .await;
    }

    async fn set_backing(&self) {
        let backing = self.rig.geometry.options.backing.clone();
        self.durably(async |disk| disk.set_backing(backing).await)
            .await;
    }

    /// Moves what the image holds to its backing file. Where snapshots stand on that as well, they
    /// would change.
    async fn commit(&self) {
        if self.rig.geometry.layers.is_empty() || !self.witness.history().snapshots().is_empty() {
            return;
        }
        let size_bytes = self.disk().properties().size_bytes;
        let pieces = held_by(&self.disk()).await;
        self.close().await;
        self.rig.write_backing(size_bytes, pieces).await;
        self.disk.replace(Rc::new(self.rig.open().await.unwrap()));
        self.durably(async |disk| disk.empty().await).await;
    }

    /// Changes the size and the sectors from `first` on, durably.
    async fn switch(
        &self,
        first: usize,
        stamps: Vec<Stamp>,
        sectors: u64,
        request: impl AsyncFnOnce(&Image) -> Result<(), Error>,
    ) {
        let before = self.size_sectors();
        self.witness.note(Event::SizeBegin { sectors });
        let disk = self.disk();
        let attempt = self.witness.attempt(first, stamps, true, request(&disk));
        match attempt.await {
            Ok(()) => {
                self.witness.note(Event::SizeEnd);
                // All of it is durable, what was switched to and what was there before.
                self.durably(async |_| Ok(())).await;
            }
            Err(error) if self.is_refusal(&error) => {
                self.witness.note(Event::SizeBegin { sectors: before });
                self.witness.note(Event::SizeEnd);
            }
            failed => drop(self.witness.succeeded(failed)),
        }
    }

    pub(super) async fn delete(&self, name: &str) {
        self.witness.note(Event::DeleteBegin {
            name: name.to_owned(),
        });
        if self
            .durably(async |disk| disk.delete_snapshot(name).await)
            .await
        {
            self.witness.note(Event::SnapshotEnd {
                name: name.to_owned(),
                exists: false,
            });
        }
    }

    /// Closes the image, which must leave it without any fault.
    pub(super) async fn close(&self) {
        assert!(
            self.durably(async |disk| disk.close().await).await,
            "cannot close"
        );
        let report = self.rig.check().await.unwrap();
        assert!(report.exit_status() == 0, "{report:#?}");
    }

    async fn reopen(&self) {
        self.close().await;
        let disk = self.rig.open().await.unwrap();
        self.disk.replace(Rc::new(disk));
    }

    /// Reads everything, closes the image, and reads it again. Requests that failed may have left
    /// leaks.
    pub(super) async fn finish_with_leaks(&self) {
        self.read_all().await;
        assert!(
            self.durably(async |disk| disk.close().await).await,
            "cannot close"
        );
        let report = self.rig.check().await.unwrap();
        assert_eq!(
            (report.corruptions, report.check_errors),
            (0, 0),
            "{report:#?}"
        );
        let disk = self.rig.open().await.unwrap();
        self.disk.replace(Rc::new(disk));
        self.read_all().await;
        let names: Vec<_> = self
            .disk()
            .snapshots()
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        for (name, snapshot) in self.witness.history().snapshots() {
            assert!(
                !snapshot.sure || names.contains(name),
                "there is no snapshot {name:?}"
            );
        }
    }

    /// Looks at every snapshot by going back to it, and deletes it; then closes the image.
    pub(super) async fn finish(&self) {
        self.read_all().await;
        self.reopen().await;
        self.read_all().await;
        while let Some(name) = self.choose_snapshot(0) {
            self.apply(&name).await;
            self.read_all().await;
            self.delete(&name).await;
            self.read_all().await;
        }
        self.close().await;
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
            let read = Request::read(at, buffers.clone());
            disk.submit(read).await.unwrap();
            pieces.push((at, buffers));
        }
        at += extent.len;
    }
    pieces
}
