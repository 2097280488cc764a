//! Opening.

use std::rc::Rc;

use super::Qcow2;
use super::image::Image;
use crate::qcow2::check::{Repair, check};
use crate::qcow2::file;
use crate::qcow2::format::{Header, IncompatibleFeatures};
use crate::{Disk, Error, Order, Storage};

/// What an image needs beside its own file.
pub struct Parts<S> {
    /// The backing file, if the image names one.
    pub backing: Option<Rc<dyn Disk>>,
    /// The data file, if the image has one.
    pub data_file: Option<S>,
    /// How many bytes of L2 tables to keep in memory; absent: enough for 64 GiB of the disk, but
    /// at most 64 MiB.
    pub l2_cache_bytes: Option<u64>,
    /// How metadata is kept in order with data; absent: by a journal where the image can have one.
    pub order: Option<Order>,
    /// The size of the journal; absent: what suits most.
    pub journal_bytes: Option<u64>,
}

impl<S> Default for Parts<S> {
    fn default() -> Self {
        Self {
            backing: None,
            data_file: None,
            l2_cache_bytes: None,
            order: None,
            journal_bytes: None,
        }
    }
}

impl<S: Storage> Qcow2<S> {
    /// Opens the image in `storage`, read-only if that is. A writable image that was not closed
    /// properly, and says that its refcounts may be wrong, is repaired first.
    pub async fn open(storage: S, parts: Parts<S>) -> Result<Self, Error> {
        let mut header = file::read_header(&storage).await?;
        if !storage.geometry().read_only {
            if header.incompatible.has(IncompatibleFeatures::CORRUPT) {
                return Err(Error::Damaged {
                    path: storage.path().to_owned(),
                    offset: Header::INCOMPATIBLE_OFFSET,
                    problem: "marked as corrupt; repair it, or open it read-only".to_owned(),
                });
            }
            if header.incompatible.has(IncompatibleFeatures::DIRTY) {
                let report = check(&storage, Repair::All).await?;
                if report.corruptions > 0 || report.check_errors > 0 {
                    return Err(Error::Damaged {
                        path: storage.path().to_owned(),
                        offset: Header::INCOMPATIBLE_OFFSET,
                        problem: "not closed properly, and not all of it can be repaired; \
                                  check it, or open it read-only"
                            .to_owned(),
                    });
                }
                header = file::read_header(&storage).await?;
            }
        }
        let order = parts.order.unwrap_or(Order::Ordered);
        if order == Order::Barrier && !storage.has_barrier() {
            // A storage without one says why.
            storage.barrier().await?;
        }
        let image = Image::new(
            storage,
            header,
            parts.backing,
            parts.data_file,
            parts.l2_cache_bytes,
            order,
        );
        image.learn_kinds().await?;
        Ok(Self {
            image: Rc::new(image),
        })
    }
}
