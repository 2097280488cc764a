//! Internal snapshots of an image that nobody uses. Part "Snapshots" of the specification.
//!
//! A snapshot is an L1 table and a reference to all that hangs on it. Each change is one
//! [`Rewrite`]: a power cut leaves what was before or what is to be.

mod table;

use super::bitmap::{self, Bitmaps};
use super::file;
use super::format::{Header, SNAPSHOTS_MAX, SnapshotEntry};
use super::rewrite::{Change, Rewrite};
use crate::{Error, Storage};
pub(crate) use table::read_table;

/// What to call a new snapshot, and when it is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    /// A number, by convention, that no other has; without it, the next one.
    pub id: Option<String>,
    /// What the user calls it.
    pub name: String,
    /// When it is taken, in seconds since 1970.
    pub date_seconds: u32,
    /// The nanoseconds of that.
    pub date_ns: u32,
    /// How long the guest has run, in nanoseconds.
    pub vm_clock_ns: u64,
}

/// The snapshots of an image, oldest first.
pub(crate) async fn list(
    storage: &impl Storage,
    header: &Header,
) -> Result<Vec<SnapshotEntry>, Error> {
    Ok(read_table(storage, header).await?.0)
}

/// A header that has the disk as it was when a snapshot was taken: its L1 table, and its size.
pub(crate) async fn view(
    storage: &impl Storage,
    header: &Header,
    id_or_name: &str,
) -> Result<Header, Error> {
    let unusable = |problem: String| {
        let problem = format!("snapshot '{id_or_name}': {problem}");
        refused(storage, problem)
    };
    if !storage.geometry().read_only {
        return Err(unusable("can only be read".into()));
    }
    let snapshots = list(storage, header).await?;
    let snapshot = &snapshots[find(storage, &snapshots, id_or_name)?];
    let view = Header {
        l1_offset: snapshot.l1_offset,
        l1_entries: snapshot.l1_entries,
        size_bytes: snapshot.disk_bytes.unwrap_or(header.size_bytes),
        ..header.clone()
    };
    let checked = view.check_tables(storage.size_bytes());
    checked.map_err(|error| unusable(error.problem))?;
    Ok(view)
}

/// Takes a snapshot of the disk as it is. Returns the image's header as it is then.
pub(crate) async fn create(
    storage: &impl Storage,
    header: &Header,
    new: &NewSnapshot,
) -> Result<Header, Error> {
    let mut snapshots = list(storage, header).await?;
    let id = check_new(header, &snapshots, new).map_err(|problem| refused(storage, problem))?;
    let mut rewrite = Rewrite::begin(storage, header).await?;
    let mut l1 = rewrite.read_l1(header.l1_offset, header.l1_entries).await?;
    rewrite.count_tree(&l1, Change::Add).await?;
    rewrite.settle_copied(&mut l1, 2).await?;
    rewrite.replace_l1(&l1).await?;
    snapshots.push(SnapshotEntry {
        l1_offset: rewrite.write_l1(&l1).await?,
        l1_entries: header.l1_entries,
        id,
        name: new.name.clone(),
        date_seconds: new.date_seconds,
        date_ns: new.date_ns,
        vm_clock_ns: new.vm_clock_ns,
        vm_state_bytes: 0,
        disk_bytes: Some(header.size_bytes),
        unknown_extra: Vec::new(),
        raw_names: None,
    });
    table::replace(&mut rewrite, &snapshots).await?;
    rewrite.commit().await
}

/// Makes the disk what it was when a snapshot was taken. Returns the image's header as it is then.
pub(crate) async fn apply(
    storage: &impl Storage,
    header: &Header,
    id_or_name: &str,
) -> Result<Header, Error> {
    let snapshots = list(storage, header).await?;
    let snapshot = &snapshots[find(storage, &snapshots, id_or_name)?];
    let bitmaps = if snapshot
        .disk_bytes
        .is_none_or(|bytes| bytes == header.size_bytes)
    {
        Bitmaps::Enabled
    } else {
        Bitmaps::All
    };
    let header = &bitmap::mark_in_use(storage, header, bitmaps).await?;
    let mut rewrite = Rewrite::begin(storage, header).await?;
    let old = rewrite.read_l1(header.l1_offset, header.l1_entries).await?;
    let (offset, entries) = (snapshot.l1_offset, snapshot.l1_entries);
    let mut l1 = rewrite.read_l1(offset, entries).await?;
    // The state of a VM that lies behind the disk stays with the snapshot.
    let disk_bytes = snapshot.disk_bytes.unwrap_or(header.size_bytes);
    rewrite.header.size_bytes = disk_bytes;
    l1.truncate(file::len(rewrite.layout().l1_entries_for(disk_bytes)));
    // Removed first, so that a refcount at its limit does not overflow on the way.
    rewrite.count_tree(&old, Change::Remove).await?;
    rewrite.count_tree(&l1, Change::Add).await?;
    rewrite.settle_copied(&mut l1, 1).await?;
    rewrite.fit_l1(&mut l1)?;
    rewrite.replace_l1(&l1).await?;
    rewrite.commit().await
}

/// Forgets a snapshot, and gives back what only it needed. Returns the image's header as it is
/// then.
pub(crate) async fn delete(
    storage: &impl Storage,
    header: &Header,
    name_or_id: &str,
) -> Result<Header, Error> {
    let mut snapshots = list(storage, header).await?;
    let snapshot = snapshots.remove(find_to_delete(storage, &snapshots, name_or_id)?);
    let mut rewrite = Rewrite::begin(storage, header).await?;
    let (offset, entries) = (snapshot.l1_offset, snapshot.l1_entries);
    let gone = rewrite.read_l1(offset, entries).await?;
    rewrite.count_tree(&gone, Change::Remove).await?;
    rewrite.free(offset, snapshot.l1_bytes())?;
    let mut l1 = rewrite.read_l1(header.l1_offset, header.l1_entries).await?;
    rewrite.settle_copied(&mut l1, 1).await?;
    rewrite.replace_l1(&l1).await?;
    table::replace(&mut rewrite, &snapshots).await?;
    rewrite.commit().await
}

/// The place of a snapshot with this ID, or else with this name.
fn find(
    storage: &impl Storage,
    snapshots: &[SnapshotEntry],
    id_or_name: &str,
) -> Result<usize, Error> {
    let (by_id, by_name) = positions(snapshots, id_or_name);
    by_id
        .or(by_name)
        .ok_or_else(|| no_snapshot(storage, id_or_name))
}

/// The place of a snapshot with this name, or else with this ID. Names of others may be numbers, and
/// what is deleted is gone: a name is what qemu-img deletes by.
fn find_to_delete(
    storage: &impl Storage,
    snapshots: &[SnapshotEntry],
    name_or_id: &str,
) -> Result<usize, Error> {
    let (by_id, by_name) = positions(snapshots, name_or_id);
    by_name
        .or(by_id)
        .ok_or_else(|| no_snapshot(storage, name_or_id))
}

/// Which has this ID, and which this name.
fn positions(snapshots: &[SnapshotEntry], word: &str) -> (Option<usize>, Option<usize>) {
    let by_id = snapshots.iter().position(|s| s.id == word);
    (by_id, snapshots.iter().position(|s| s.name == word))
}

fn no_snapshot(storage: &impl Storage, word: &str) -> Error {
    refused(storage, format!("has no snapshot '{word}'"))
}

/// Refuses a snapshot that cannot be; else its ID.
fn check_new(
    header: &Header,
    snapshots: &[SnapshotEntry],
    new: &NewSnapshot,
) -> Result<String, String> {
    if header.has_data_file() {
        return Err("data is in another file, of which there are no snapshots".into());
    }
    if header.snapshots >= SNAPSHOTS_MAX {
        return Err(format!(
            "has {SNAPSHOTS_MAX} snapshots, and cannot have more"
        ));
    }
    let id = new.id.clone().unwrap_or_else(|| next_id(snapshots));
    let too_long = |text: &str| u16::try_from(text.len()).is_err();
    if too_long(&id) || too_long(&new.name) {
        return Err("a snapshot's ID and name have at most 65535 bytes".into());
    }
    for snapshot in snapshots {
        if snapshot.id == id {
            return Err(format!("has a snapshot with ID '{id}' already"));
        }
        if snapshot.name == new.name {
            return Err(format!("has a snapshot '{}' already", new.name));
        }
    }
    Ok(id)
}

fn next_id(snapshots: &[SnapshotEntry]) -> String {
    let ids = snapshots.iter().filter_map(|s| s.id.parse::<u64>().ok());
    ids.max().unwrap_or(0).saturating_add(1).to_string()
}

fn refused(storage: &impl Storage, problem: String) -> Error {
    Error::Unsupported {
        path: storage.path().to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests;
