//! The ways to keep an image whole, on the same image.

use std::collections::BTreeMap;
use std::rc::Rc;

use ::disk::qcow2::{CreateOptions, Parts, Qcow2, create};
use ::disk::{Buffers, Disk, Error, Order, Raw, Request, Storage};

use super::guest::{DISK_BYTES, FREED, WRITTEN};
use super::host::HostFile;
use super::host::clusters::WholeClusters;

const SEED: u64 = 1;
/// Less than usual, so that the few thousand flushes of a run fill it more than once.
const JOURNAL_BYTES: u64 = 2 << 20;

/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// A raw image, sparse where nothing was written.
    Raw,
    /// qcow2 in this order.
    Ours(Order),
    /// A model of QEMU's qcow2: see [`WholeClusters`].
    Clusters,
}

impl Contender {
    /// In the order of the table's columns.
    pub(super) const ALL: [Self; 5] = [
        Self::Raw,
        Self::Ours(Order::Journal),
        Self::Ours(Order::Ordered),
        Self::Ours(Order::Barrier),
        Self::Clusters,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Ours(Order::Journal) => "journal",
            Self::Ours(Order::Ordered) => "ordered",
            Self::Ours(Order::Barrier) => "barrier",
            Self::Ours(Order::Unsafe) => "unsafe",
            Self::Clusters => "clusters",
        }
    }

    /// Opens the image in `file`; none if the storage lacks what this needs.
    pub(super) async fn open(self, file: HostFile) -> Result<Option<Rc<dyn Disk>>, Error> {
        Ok(Some(match self {
            Self::Raw => Rc::new(Raw::new(file)?),
            Self::Ours(Order::Barrier) if !file.has_barrier() => return Ok(None),
            Self::Ours(order) => Rc::new(open_qcow2(file, order).await?),
            Self::Clusters => {
                let storage = WholeClusters::new(file);
                Rc::new(open_qcow2(storage, Order::Ordered).await?)
            }
        }))
    }
}

async fn open_qcow2<S: Storage>(storage: S, order: Order) -> Result<Qcow2<S>, Error> {
    let parts = Parts {
        order: Some(order),
        journal_bytes: (order == Order::Journal).then_some(JOURNAL_BYTES),
        ..Parts::default()
    };
    Qcow2::open(storage, parts).await
}

/// Images in the state in which guests find them, each made once: by whether it is raw, and
/// whether the guest's file system is aged.
#[derive(Default)]
pub(super) struct Images(BTreeMap<(bool, bool), HostFile>);

impl Images {
    /// A copy of the image that a contender needs, on no device.
    pub(super) async fn copy(&mut self, of: Contender, aged: bool) -> Result<HostFile, Error> {
        let raw = of == Contender::Raw;
        if let Some(image) = self.0.get(&(raw, aged)) {
            return Ok(image.copy());
        }
        let size_bytes = if raw { DISK_BYTES } else { 0 };
        let file = HostFile::new(size_bytes, SEED);
        let image = fill(file, raw, aged).await?;
        Ok(self.0.entry((raw, aged)).or_insert(image).copy())
    }
}

/// Writes what was written before a workload begins.
async fn fill(file: HostFile, raw: bool, aged: bool) -> Result<HostFile, Error> {
    let disk: Box<dyn Disk> = if raw {
        Box::new(Raw::new(file.clone())?)
    } else {
        create(&file, &CreateOptions::new(DISK_BYTES)).await?;
        Box::new(open_qcow2(file.clone(), Order::Ordered).await?)
    };
    let piece = Buffers::from_vec(vec![0x5a; 1 << 20]);
    for range in WRITTEN.into_iter().filter(|range| aged || *range != FREED) {
        for offset in range.step_by(piece.len()) {
            disk.submit(Request::write(offset, piece.clone())).await?;
        }
    }
    disk.close().await?;
    Ok(file)
}
