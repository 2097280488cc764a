//! A disk that can be exchanged for another while it is in use: for an overlay on itself, for
//! example, which is how a snapshot is taken while a guest runs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::range_locks::RangeLocks;
use crate::{BoxFuture, Disk, Error, Extent, Properties, Request, Statistics};

/// Passes everything on to a disk, of which there may be another later. Whoever uses it does not
/// notice: requests that come meanwhile wait.
pub struct Exchange {
    disk: RefCell<Rc<dyn Disk>>,
    properties: Properties,
    /// Requests share it, for as long as they are on their way.
    in_use: RangeLocks,
    /// What earlier disks did.
    past: Cell<Statistics>,
}

impl Exchange {
    /// With `disk` at first.
    pub fn new(disk: Rc<dyn Disk>) -> Self {
        Self {
            properties: disk.properties(),
            disk: RefCell::new(disk),
            in_use: RangeLocks::default(),
            past: Cell::default(),
        }
    }

    /// Waits for all requests on their way, closes the disk, and goes on with the one that `next`
    /// opens. Nobody may have closed this. A disk that cannot be closed in order stays in its place,
    /// and refuses everything: what was written may be lost, and opening it anew would forget that.
    /// If `next` opens none, or one of another size, the one that `again` opens takes its place,
    /// which should be the old one; the error of `next` is returned.
    pub async fn exchange(
        &self,
        next: impl AsyncFnOnce() -> Result<Rc<dyn Disk>, Error>,
        again: impl AsyncFnOnce() -> Result<Rc<dyn Disk>, Error>,
    ) -> Result<(), Error> {
        let _alone = self.in_use.all().await;
        let old = self.current();
        // Until there is another, requests would reach a disk that is closed, which refuses them.
        old.close().await?;
        let (disk, outcome) = match next().await.and_then(|disk| self.check(disk)) {
            Ok(disk) => (disk, Ok(())),
            Err(error) => {
                tracing::debug!(%error, "the disk stays the one it was");
                (again().await?, Err(error))
            }
        };
        let mut past = self.past.get();
        past += old.statistics();
        self.past.set(past);
        self.disk.replace(disk);
        outcome
    }

    fn check(&self, disk: Rc<dyn Disk>) -> Result<Rc<dyn Disk>, Error> {
        let (old, new) = (self.properties.size_bytes, disk.properties().size_bytes);
        if old == new {
            return Ok(disk);
        }
        Err(Error::Size {
            path: "the disk in its place".into(),
            size_bytes: new,
            reason: format!("the one before had {old}"),
        })
    }

    fn current(&self) -> Rc<dyn Disk> {
        Rc::clone(&self.disk.borrow())
    }
}

impl Disk for Exchange {
    /// Those of the first disk: whoever uses it was told them.
    fn properties(&self) -> Properties {
        self.properties
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let _shared = self.in_use.shared(0, 0).await;
            self.current().submit(request).await
        })
    }

    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        Box::pin(async move {
            let _shared = self.in_use.shared(0, 0).await;
            self.current().extent(offset, len).await
        })
    }

    fn give_up(&self) {
        self.current().give_up();
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let _alone = self.in_use.all().await;
            self.current().close().await
        })
    }

    fn statistics(&self) -> Statistics {
        let mut all = self.past.get();
        all += self.disk.borrow().statistics();
        all
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join;

    use super::*;
    use crate::flat::{self, Flat};
    use crate::{Backend, Buffers, Executor, Fault, FaultyOperation, Raw, SimulatedStorage};

    const SIZE_BYTES: u64 = 64 << 10;

    async fn write(disk: &dyn Disk, offset: u64, byte: u8) {
        let data = Buffers::from_vec(vec![byte; 4096]);
        disk.submit(Request::write(offset, data)).await.unwrap();
    }

    async fn read(disk: &dyn Disk, offset: u64) -> u8 {
        let data = Buffers::zeroed(512);
        let request = Request::read(offset, data.clone());
        disk.submit(request).await.unwrap();
        data.to_vec()[0]
    }

    fn raw(storage: &SimulatedStorage) -> Rc<dyn Disk> {
        Rc::new(Raw::new(storage.clone()).unwrap())
    }

    /// An overlay on a raw disk.
    async fn overlay(base: &SimulatedStorage) -> Result<Rc<dyn Disk>, Error> {
        let storage = SimulatedStorage::new(0, 1);
        let mut options = flat::CreateOptions::new(SIZE_BYTES);
        options.base = Some(flat::Base {
            name: flat::format::BaseName {
                name: "base".to_owned(),
                format: "raw".to_owned(),
                version: None,
            },
            size_bytes: SIZE_BYTES,
        });
        flat::create(&storage, &options, None).await?;
        let parts = flat::Parts {
            base: Some(raw(&base.clone().read_only())),
            ..flat::Parts::default()
        };
        Ok(Rc::new(Flat::open(storage, parts).await?))
    }

    #[test]
    fn an_overlay_takes_the_place_of_its_base_under_load() {
        for seed in 0..50 {
            let executor = Executor::with_backend(Backend::Simulated { seed }).unwrap();
            executor.run(async {
                let base = SimulatedStorage::new(SIZE_BYTES, seed);
                let disk = Exchange::new(raw(&base));
                let load = async {
                    for byte in 1..40 {
                        write(&disk, 4096, byte).await;
                        assert_eq!(read(&disk, 4096).await, byte);
                    }
                };
                let below = async {
                    write(&disk, 0, 200).await;
                    let never = async || panic!("it is opened");
                    disk.exchange(async || overlay(&base).await, never)
                        .await
                        .unwrap();
                    raw(&base)
                };
                let ((), below) = join(load, below).await;
                assert_eq!((read(&disk, 0).await, read(&disk, 4096).await), (200, 39));
                let then = read(below.as_ref(), 4096).await;
                write(&disk, 0, 201).await;
                disk.close().await.unwrap();
                assert_eq!(read(below.as_ref(), 0).await, 200);
                assert!(then < 40, "{then}");
                // 39 of the load, two here, one before.
                assert_eq!(disk.statistics().writes, 41);
            });
        }
    }

    /// The next flush would say that all is well.
    #[test]
    fn a_disk_that_lost_something_is_not_opened_anew() {
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
        executor.run(async {
            let base = SimulatedStorage::new(SIZE_BYTES, 1);
            let disk = Exchange::new(raw(&base));
            write(&disk, 0, 5).await;
            base.inject(Fault::new(FaultyOperation::Sync, libc::EIO));
            let never = async || panic!("it is opened");
            let again = async || panic!("it is opened anew");
            assert!(disk.exchange(never, again).await.is_err());
            let flushed = disk.submit(Request::flush()).await;
            assert!(flushed.is_err(), "{flushed:?}");
        });
    }

    #[test]
    fn the_old_disk_goes_on_if_there_is_no_other() {
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
        executor.run(async {
            let base = SimulatedStorage::new(SIZE_BYTES, 1);
            let disk = Exchange::new(raw(&base));
            write(&disk, 0, 5).await;
            let smaller = SimulatedStorage::new(SIZE_BYTES / 2, 1);
            let again = async || Ok(raw(&base));
            let refused = disk.exchange(async || Ok(raw(&smaller)), again).await;
            assert!(refused.unwrap_err().to_string().contains("65536"));
            assert_eq!(read(&disk, 0).await, 5);
            write(&disk, SIZE_BYTES - 4096, 6).await;
            assert_eq!(read(&disk, SIZE_BYTES - 4096).await, 6);
        });
    }
}
