//! Opening.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Qcow2;
use super::image::Image;
use crate::Repair;
use crate::journal::RecoveryReport;
use crate::qcow2::check::check;
use crate::qcow2::format::{Header, IncompatibleFeatures};
use crate::qcow2::{file, journal, snapshot};
use crate::{Disk, Error, Order, Storage};

/// What an image needs beside its own file.
pub struct Parts<S> {
    /// The backing file, if the image names one.
    pub backing: Option<Rc<dyn Disk>>,
    /// The data file, if the image has one.
    pub data_file: Option<S>,
    /// The internal snapshot to read in place of the disk as it is now, by its ID or its name.
    pub snapshot: Option<String>,
    /// How many bytes of L2 tables to keep in memory; absent: enough for 64 GiB of the disk, but
    /// at most 64 MiB.
    pub l2_cache_bytes: Option<u64>,
    /// How metadata is kept in order with data; absent: by a journal where the image can have one.
    pub order: Option<Order>,
    /// Whether data that is alike is stored once, and what with.
    pub dedup: Option<DedupOptions>,
    /// The size of the journal; absent: what suits most.
    pub journal_bytes: Option<u64>,
    /// What measures how long recovery takes; absent: nothing does.
    pub clock: Option<fn() -> Instant>,
}

/// How data that is alike is found.
#[derive(Clone, Debug)]
pub struct DedupOptions {
    /// The most memory for the index of what is where, in bytes.
    pub index_bytes: u64,
    /// What nobody else knows: who does could make content that is taken for other content.
    pub key: [u8; 32],
}

impl<S> Default for Parts<S> {
    fn default() -> Self {
        Self {
            backing: None,
            data_file: None,
            snapshot: None,
            l2_cache_bytes: None,
            order: None,
            dedup: None,
            journal_bytes: None,
            clock: None,
        }
    }
}

impl<S: Storage> Qcow2<S> {
    /// Opens the image in `storage`, read-only if that is. A writable image that was not closed
    /// properly, and says that its refcounts may be wrong, is repaired first.
    pub async fn open(storage: S, parts: Parts<S>) -> Result<Self, Error> {
        let (header, recovered) = if storage.geometry().read_only {
            (closed(&storage).await?, None)
        } else {
            made_whole(&storage, &parts).await?
        };
        let disk = match &parts.snapshot {
            Some(id_or_name) => snapshot::view(&storage, &header, id_or_name).await?,
            None => header.clone(),
        };
        let image = Image::new(storage, disk, parts);
        if let Some((report, took)) = recovered {
            let statistics = report.note(image.storage.path(), took);
            image.past_journals.set(statistics);
        }
        image.learn_kinds(&header).await?;
        Ok(Self {
            image: Rc::new(image),
        })
    }
}

/// The header of an image that is only read: one that was not closed is refused.
async fn closed(storage: &impl Storage) -> Result<Header, Error> {
    let header = file::read_header(storage).await?;
    if header.journal.is_some() {
        return Err(crate::journal::unclosed(storage));
    }
    Ok(header)
}

/// The header of an image that is written, once what was left of the last time is done; also what
/// was recovered, and how long that took.
async fn made_whole<S: Storage>(
    storage: &S,
    parts: &Parts<S>,
) -> Result<(Header, Option<(RecoveryReport, Duration)>), Error> {
    let mut header = file::read_header(storage).await?;
    refuse_corrupt(storage, &header)?;
    let mut recovered = None;
    if header.journal.is_some() {
        let begun = parts.clock.map(|now| (now, now()));
        let report = journal::recover(storage).await?;
        let took = begun.map_or(Duration::ZERO, |(now, begun)| now() - begun);
        recovered = report.map(|report| (report, took));
        header = file::read_header(storage).await?;
    }
    if header.incompatible.has(IncompatibleFeatures::DIRTY) {
        repair(storage).await?;
        header = file::read_header(storage).await?;
    }
    check_order(storage, &header, parts.order).await?;
    if parts.dedup.is_some() {
        check_dedup(storage, &header, parts.order)?;
    }
    Ok((header, recovered))
}

fn refuse_corrupt(storage: &impl Storage, header: &Header) -> Result<(), Error> {
    if !header.incompatible.has(IncompatibleFeatures::CORRUPT) {
        return Ok(());
    }
    Err(Error::Damaged {
        path: storage.path().to_owned(),
        offset: Header::INCOMPATIBLE_OFFSET,
        problem: "marked as corrupt; repair it, or open it read-only".to_owned(),
    })
}

/// Repairs refcounts that the image says may be wrong.
async fn repair(storage: &impl Storage) -> Result<(), Error> {
    let report = check(storage, Repair::All).await?;
    if report.corruptions == 0 && report.check_errors == 0 {
        return Ok(());
    }
    Err(Error::Damaged {
        path: storage.path().to_owned(),
        offset: Header::INCOMPATIBLE_OFFSET,
        problem: "not closed properly, and not all of it can be repaired; \
                  check it, or open it read-only"
            .to_owned(),
    })
}

/// Refuses an order that was asked for and cannot be had.
async fn check_order(
    storage: &impl Storage,
    header: &Header,
    order: Option<Order>,
) -> Result<(), Error> {
    match order {
        // A storage without one says why.
        Some(Order::Barrier) if !storage.has_barrier() => storage.barrier().await,
        Some(Order::Journal) if header.version < 3 => Err(Error::Unsupported {
            path: storage.path().to_owned(),
            problem: "version 2 of the format cannot have a journal; \
                      convert the image, or use order=ordered"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Refuses an image that cannot share data: two of its tables must change at once then, which takes a
/// journal.
fn check_dedup(storage: &impl Storage, header: &Header, order: Option<Order>) -> Result<(), Error> {
    let problem = if header.has_data_file() {
        "an image with a data file cannot share data; leave out dedup"
    } else if header.version < 3 {
        "version 2 of the format cannot have the journal that dedup needs; convert the image"
    } else if order.is_some_and(|order| order != Order::Journal) {
        "dedup needs order=journal"
    } else {
        return Ok(());
    };
    Err(Error::Unsupported {
        path: storage.path().to_owned(),
        problem: problem.to_owned(),
    })
}
