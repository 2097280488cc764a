//! What is in a cache file that is opened: all of it, the dirty blocks only, or nothing that counts.

use std::collections::BTreeMap;

use super::Shared;
use super::blocks::Blocks;
use super::format::{
    Entry, EntryState, Header, SECTOR_BYTES, TABLE_OFFSET, data_offset, file_bytes,
    parse_table_sector, table_sector, table_sectors,
};
use super::open::{Behind, path_bytes};
use super::store::{BLOCK, Store};
use crate::mutant::mutant;
use crate::storage::{read, write};
use crate::{CLASS_BLOCK_BYTES, Error, Storage};

/// The disk's file may have been changed so long after the cache file noted how it was: what was
/// still on its way to the disk then.
const UNNOTED_NS: u64 = 10_000_000_000;
/// So many sectors of the table are read or written at once.
const PIECE_SECTORS: u32 = 2048;

/// What a cache begins with.
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) blocks: Blocks,
}

/// Looks at a cache file, with room for so many slots, and takes it over. What is clean counts if
/// the file was closed in order, and the disk is as it was then. What is dirty counts, or the file
/// is refused.
pub(super) async fn recover(
    storage: &impl Storage,
    slots: u32,
    behind: &Behind,
    empty: impl Fn() -> Blocks,
) -> Result<Found, Error> {
    let new = Header {
        is_clean: false,
        is_made: true,
        slots,
        disk_bytes: behind.disk.properties().size_bytes,
        identity: storage.nonce(),
        stamp: behind.before,
        path: path_bytes(&behind.path),
    };
    let Some(old) = old_header(storage).await? else {
        return make(storage, new, empty()).await;
    };
    let refuse = |problem: String| Error::Unsupported {
        path: storage.path().to_owned(),
        problem,
    };
    let entries = Entries::read(storage, &old).await?;
    let is_needed = old.is_clean || entries.has_dirty();
    if is_needed && !is_same_disk(&old, &new) {
        return Err(refuse(another_disk(&old, entries.has_dirty())));
    }
    if old.is_clean {
        let is_unchanged = old.stamp.is_some() && old.stamp == new.stamp;
        let is_alike = (old.slots, old.disk_bytes) == (new.slots, new.disk_bytes);
        if !(is_unchanged && is_alike) {
            return make(storage, new, empty()).await;
        }
    } else if !entries.has_dirty() {
        return make(storage, new, empty()).await;
    } else if let Some(problem) = problem(&old, &new, behind.disk.properties().read_only) {
        return Err(refuse(problem));
    }
    let mut blocks = empty();
    entries.load(storage, &old, &mut blocks).await?;
    let header = Header {
        is_clean: false,
        ..old
    };
    write(storage, 0, header.to_bytes()).await?;
    // What is newest is durable before anything older is given up.
    storage.sync().await?;
    Ok(Found { header, blocks })
}

/// The header of a cache file, unless it is empty or was not made to the end.
async fn old_header(storage: &impl Storage) -> Result<Option<Header>, Error> {
    let size_bytes = storage.size_bytes();
    let sector = read(storage, 0, SECTOR_BYTES).await?;
    // That of a file that was about to be made, or of a device that nobody has used.
    let is_small = size_bytes < TABLE_OFFSET || !storage.can_resize();
    if is_small && sector.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let problem = |problem: &str| Error::Unsupported {
        path: storage.path().to_owned(),
        problem: problem.to_owned(),
    };
    let header = Header::parse(&sector).map_err(problem)?;
    if !header.is_made {
        return Ok(None);
    }
    if file_bytes(header.slots) > size_bytes {
        return Err(problem(
            "is damaged: it is shorter than its header says; what it held is lost, so delete it \
             and check the disk",
        ));
    }
    Ok(Some(header))
}

/// Makes an empty cache of a file, in an order that leaves no part of an older one.
async fn make(storage: &impl Storage, header: Header, blocks: Blocks) -> Result<Found, Error> {
    let unmade = Header {
        is_made: false,
        ..header.clone()
    };
    write(storage, 0, unmade.to_bytes()).await?;
    storage.sync().await?;
    let bytes = file_bytes(header.slots);
    if storage.can_resize() {
        storage.set_len(bytes).await?;
    } else if storage.size_bytes() < bytes {
        return Err(Error::Size {
            path: storage.path().to_owned(),
            size_bytes: storage.size_bytes(),
            reason: format!("this cache takes {bytes}; give it a smaller size"),
        });
    }
    let sectors = table_sectors(header.slots);
    let mut first = 0;
    while first < sectors {
        let end = (first + PIECE_SECTORS).min(sectors);
        let empty = |number| table_sector(&header.identity, number, 0, &[]);
        let piece: Vec<u8> = (first..end).flat_map(empty).collect();
        write(storage, sector_offset(first), piece).await?;
        first = end;
    }
    storage.sync().await?;
    write(storage, 0, header.to_bytes()).await?;
    storage.sync().await?;
    Ok(Found { header, blocks })
}

fn sector_offset(number: u32) -> u64 {
    TABLE_OFFSET + u64::from(number) * SECTOR_BYTES as u64
}

fn is_same_disk(old: &Header, new: &Header) -> bool {
    let inode = |header: &Header| header.stamp.map(|stamp| stamp.inode);
    let is_same_file = inode(old).is_some() && inode(old) == inode(new);
    is_same_file || old.path == new.path
}

fn another_disk(old: &Header, has_dirty: bool) -> String {
    let path = String::from_utf8_lossy(&old.path).into_owned();
    let remedy = if has_dirty {
        "open that disk with it once, which brings home what it lacks"
    } else {
        "name another file, or delete this one"
    };
    format!("is the cache of another disk, '{path}'; {remedy}")
}

/// Why dirty blocks cannot go home to this disk.
fn problem(old: &Header, new: &Header, read_only: bool) -> Option<String> {
    const HELD: &str = "holds what the disk lacks since it was not closed";
    if old.disk_bytes != new.disk_bytes {
        let (was, is) = (old.disk_bytes, new.disk_bytes);
        return Some(format!(
            "{HELD}, but the disk has {is} bytes now, not {was}; bring the old disk back, or \
             delete this file and lose what it holds"
        ));
    }
    if old.slots != new.slots {
        let bytes = u64::from(old.slots) * CLASS_BLOCK_BYTES;
        return Some(format!(
            "{HELD}; open it once with the size it has, cache={bytes}"
        ));
    }
    if read_only {
        return Some(format!("{HELD}; open the disk for writing once"));
    }
    let (Some(was), Some(is)) = (old.stamp, new.stamp) else {
        return None;
    };
    let last_ns = was.changed_ns.saturating_add(UNNOTED_NS);
    if was.inode != is.inode || is.changed_ns > last_ns {
        let seconds = was.changed_ns / 1_000_000_000;
        return Some(format!(
            "{HELD}, but somebody has changed the disk since; bring the old disk back, or delete \
             this file and lose what it holds; if you know that nobody wrote to the disk, `touch \
             -d @{seconds}` its file"
        ));
    }
    None
}

/// What a table says.
struct Entries {
    /// By slot.
    list: Vec<Entry>,
    durable_sequence: u64,
}

impl Entries {
    async fn read(storage: &impl Storage, header: &Header) -> Result<Self, Error> {
        let sectors = table_sectors(header.slots);
        let (mut list, mut durable_sequence) = (Vec::new(), 0);
        let blocks = header.disk_bytes.div_ceil(CLASS_BLOCK_BYTES);
        let mut first = 0;
        while first < sectors {
            let count = PIECE_SECTORS.min(sectors - first);
            let offset = sector_offset(first);
            let bytes = read(storage, offset, count as usize * SECTOR_BYTES).await?;
            for (number, sector) in (first..).zip(bytes.chunks(SECTOR_BYTES)) {
                let found = parse_table_sector(&header.identity, number, sector)
                    .filter(|(_, entries)| entries.iter().all(|entry| entry.block < blocks));
                let (durable, entries) = found.ok_or_else(|| Error::Damaged {
                    path: storage.path().to_owned(),
                    offset: sector_offset(number),
                    problem: "what it says of its blocks is wrong; if the disk was closed in \
                              order, delete this file"
                        .into(),
                })?;
                durable_sequence = durable_sequence.max(durable);
                list.extend(entries);
            }
            first += count;
        }
        list.truncate(header.slots as usize);
        Ok(Self {
            list,
            durable_sequence,
        })
    }

    fn has_dirty(&self) -> bool {
        self.list
            .iter()
            .any(|entry| entry.state == EntryState::Dirty)
    }

    /// Puts what counts into `blocks`.
    async fn load(
        &self,
        storage: &impl Storage,
        header: &Header,
        blocks: &mut Blocks,
    ) -> Result<(), Error> {
        let mut versions: BTreeMap<u64, Vec<(u32, &Entry)>> = BTreeMap::new();
        for (slot, entry) in (0..).zip(&self.list) {
            match entry.state {
                EntryState::Clean if header.is_clean && blocks.find(entry.block).is_none() => {
                    blocks.recover(slot, entry);
                }
                EntryState::Dirty | EntryState::Void if !header.is_clean => {
                    versions.entry(entry.block).or_default().push((slot, entry));
                }
                _ => {}
            }
        }
        for mut found in versions.into_values() {
            found.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.sequence));
            self.choose(storage, header, &found, blocks).await?;
        }
        blocks.recovered(self.durable_sequence);
        Ok(())
    }

    /// Of the versions of a block, the newest first, takes the first one that is whole. A void one
    /// says that the disk itself has the block.
    async fn choose(
        &self,
        storage: &impl Storage,
        header: &Header,
        versions: &[(u32, &Entry)],
        blocks: &mut Blocks,
    ) -> Result<(), Error> {
        let mut is_decided = false;
        for (slot, entry) in versions {
            if entry.state == EntryState::Void {
                blocks.recover_void(*slot, entry);
                is_decided = true;
            } else if !is_decided && self.is_whole(storage, header, *slot, entry).await? {
                blocks.recover(*slot, entry);
                is_decided = true;
            } else {
                blocks.recover_useless(*slot, entry);
            }
        }
        Ok(())
    }

    /// Whether a slot has what its entry says. What a sync covered is not looked at: if it is other
    /// than it was, whoever reads it finds out.
    async fn is_whole(
        &self,
        storage: &impl Storage,
        header: &Header,
        slot: u32,
        entry: &Entry,
    ) -> Result<bool, Error> {
        let is_durable = entry.sequence <= self.durable_sequence;
        if is_durable || mutant("what a cache file has is not looked at") {
            return Ok(true);
        }
        let offset = data_offset(header.slots) + u64::from(slot) * CLASS_BLOCK_BYTES;
        let block = read(storage, offset, BLOCK).await?;
        Ok(crc32c::crc32c(&block) == entry.crc)
    }
}

impl<S: Storage> Shared<S> {
    /// Has the table say what counts of what was found, before a slot is used again.
    pub(super) async fn settle(&self) -> Result<(), Error> {
        let (Store::File { storage, .. }, Some(table)) = (&self.store, &self.table) else {
            return Ok(());
        };
        let sealed = self.blocks.borrow_mut().seal(|_| true);
        let sectors = &sealed.sectors;
        table
            .write(storage, sectors, sealed.durable_sequence)
            .await?;
        table.flusher.flush(storage).await?;
        self.blocks.borrow_mut().committed(&sealed);
        Ok(())
    }
}
