//! New data, for clusters that nothing points to yet, and how it is durable with what will.

use std::ops::Range;

use super::allocator::Allocation;
use super::image::Image;
use crate::journal::{Journal, Journaled as _, Reserved};
use crate::mutant::mutant;
use crate::request::SECTOR_BYTES;
use crate::{Buffers, Storage};

/// Where new data is until it is mapped.
pub(super) enum NewData {
    /// In its place, and zeros that were there before are as good.
    InPlace,
    /// In its place, where a journal must vouch for it.
    Unproven(Range<u64>),
    /// In memory: it goes into a record with what maps it.
    Kept {
        place: Range<u64>,
        bytes: Vec<u8>,
        room: Reserved,
    },
}

impl NewData {
    /// What is in `cluster` has just been mapped, by the pending transaction.
    pub(super) fn mapped(&self, journal: &Journal, cluster: &Range<u64>) {
        let within = |range: &Range<u64>| {
            let part = range.start.max(cluster.start)..range.end.min(cluster.end);
            (!part.is_empty()).then_some(part)
        };
        match self {
            Self::InPlace => {}
            Self::Unproven(range) => {
                if let Some(part) = within(range) {
                    journal.checks.note_fresh(part);
                }
            }
            Self::Kept { place, bytes, room } => {
                let forgotten = mutant("new data that is kept is forgotten");
                if let Some(part) = within(place).filter(|_| !forgotten) {
                    let index =
                        |n: u64| usize::try_from(n - place.start).expect("within the memory");
                    let bytes = &bytes[index(part.start)..index(part.end)];
                    journal.shadows.put(&part, bytes);
                    room.used(part.end - part.start);
                }
            }
        }
    }
}

impl<S: Storage> Image<S> {
    /// Keeps data for new clusters to be put into a record, if that is better than to write it.
    pub(super) fn keep_new(&self, host: u64, data: &Buffers, new: Allocation) -> Option<NewData> {
        let journal = self.guarding_journal().filter(|_| new.is_zero)?;
        let end = new.offset + (new.clusters << self.layout().cluster_bits);
        journal.detour.note_new(new.offset..end);
        let place = host..host + data.len() as u64;
        let is_whole = (place.start | place.end).is_multiple_of(SECTOR_BYTES);
        if !is_whole || journal.detours(&self.storage, &place) != [place.clone()] {
            return None;
        }
        let room = journal.reserve(data.len() as u64)?;
        Some(NewData::Kept {
            place,
            bytes: data.to_vec(),
            room,
        })
    }
}
