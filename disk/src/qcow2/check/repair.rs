//! Putting right what a pass has found.

use super::pass::{Fix, Pass};
use crate::qcow2::file;
use crate::qcow2::format::{AutoclearFeatures, Header, IncompatibleFeatures};
use crate::qcow2::rewrite::{self, Rewrite};
use crate::{Error, Repair, Storage};

/// Puts right what `repair` allows and is known to be wrong, in the `round` of its kind, from 0.
/// Whether that was anything.
pub(super) async fn repair<S: Storage>(
    storage: &S,
    pass: &Pass<'_, S>,
    repair: Repair,
    round: u32,
) -> Result<bool, Error> {
    let fixes = &pass.fixes;
    // What could not be read may need what seems to be free.
    if repair == Repair::None || pass.report.check_errors > 0 {
        return Ok(false);
    }
    if repair == Repair::Leaks {
        // What seems to leak may be what the damage hides, which a later repair may save.
        if fixes.lost_references {
            return Ok(false);
        }
        let lowered = write_refcounts(storage, pass, |recorded, _| recorded).await?;
        if lowered || round == 0 {
            return Ok(lowered);
        }
        // What is not shared any more needs its flag, or it would be found wrong.
        let flags = fixes.flags.iter().filter(|fix| fix.sets_copied());
        return write_entries(storage, flags).await;
    }
    let mut done = write_entries(storage, fixes.entries.iter()).await?;
    if fixes.drop_bitmaps {
        drop_bitmaps(storage, &pass.header).await?;
        done = true;
    }
    if must_rebuild(pass) {
        rebuild(storage, pass).await?;
        return Ok(true);
    }
    done |= write_refcounts(storage, pass, |_, computed| computed).await?;
    // COPIED flags follow from refcounts: only what the image has recorded counts.
    if !done {
        done = write_entries(storage, fixes.flags.iter()).await?;
    }
    Ok(done)
}

/// Clears what says that the image may be damaged.
pub(super) async fn clear_marks(storage: &impl Storage, header: &Header) -> Result<(), Error> {
    let marks = IncompatibleFeatures::DIRTY | IncompatibleFeatures::CORRUPT;
    if header.incompatible.0 & marks == 0 {
        return Ok(());
    }
    let mut header = header.clone();
    header.incompatible = header.incompatible.with(marks, false);
    storage.sync().await?;
    rewrite::switch(storage, &header).await
}

async fn drop_bitmaps(storage: &impl Storage, header: &Header) -> Result<(), Error> {
    let mut header = header.clone();
    header.autoclear = AutoclearFeatures(header.autoclear.0 & !AutoclearFeatures::BITMAPS);
    rewrite::switch(storage, &header).await
}

async fn write_entries(
    storage: &impl Storage,
    fixes: impl Iterator<Item = &Fix>,
) -> Result<bool, Error> {
    let mut any = false;
    for fix in fixes {
        let bytes = fix.words[..fix.len].iter().flat_map(|w| w.to_be_bytes());
        file::write(storage, fix.offset, bytes.collect()).await?;
        any = true;
    }
    if any {
        storage.sync().await?;
    }
    Ok(any)
}

/// Whether refcounts have no place to be written to.
fn must_rebuild<S: Storage>(pass: &Pass<'_, S>) -> bool {
    let entries = pass.layout().refcount_block_entries();
    let covered = |cluster: u64| pass.recorded.blocks.contains_key(&(cluster / entries));
    pass.recorded.damaged || pass.computed.iter().any(|(cluster, _)| !covered(cluster))
}

/// Writes refcounts that differ into their blocks: each is right before and after. Those that are
/// too low become what `too_low` makes of the recorded and the computed one.
async fn write_refcounts<S: Storage>(
    storage: &S,
    pass: &Pass<'_, S>,
    too_low: impl Fn(u64, u64) -> u64,
) -> Result<bool, Error> {
    let layout = pass.layout();
    let (width, entries) = (layout.refcount_width, layout.refcount_block_entries());
    let mut any = false;
    for (index, offset) in &pass.recorded.blocks {
        let mut block = file::read(storage, *offset, file::len(layout.cluster_bytes())).await?;
        let mut changed = false;
        for (entry, cluster) in (0..file::len(entries)).zip(index * entries..) {
            let recorded = width.get(&block, entry);
            let computed = pass.computed.get(cluster).min(width.max());
            let right = if recorded < computed {
                too_low(recorded, computed)
            } else {
                computed
            };
            if right != recorded {
                width.set(&mut block, entry, right);
                changed = true;
            }
        }
        if changed {
            file::write(storage, *offset, block).await?;
            any = true;
        }
    }
    if any {
        storage.sync().await?;
    }
    Ok(any)
}

/// Makes all refcount structures anew behind everything else, and switches to them.
async fn rebuild<S: Storage>(storage: &S, pass: &Pass<'_, S>) -> Result<(), Error> {
    let header = file::read_header(storage).await?;
    let mut counts = pass.computed.clone();
    for cluster in pass.metadata.of_refcounts() {
        counts.set(cluster, counts.get(cluster).saturating_sub(1));
    }
    let rewrite = Rewrite::rebuild(storage, header, counts);
    rewrite.commit().await?;
    Ok(())
}
