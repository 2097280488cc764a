//! An image in the words of QEMU's `ImageInfo` (`qapi/block-core.json`).

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use disk::Layer;
use disk::flat;
use disk::qcow2;
use disk::qcow2::format::{
    AutoclearFeatures, BitmapEntry, BitmapFlags, CompatibleFeatures, Compression, Header,
    IncompatibleFeatures, SnapshotEntry,
};
use serde::Serialize;

use super::backing::Backing;
use super::flat::FlatDescription;
use super::journal::JournalState;

/// What an image is. QEMU's fields, in its spelling.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Description {
    pub(super) filename: String,
    pub(super) format: String,
    pub(super) virtual_size: u64,
    /// How much space it takes here; unknown of what is far away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) actual_size: Option<u64>,
    pub(super) dirty_flag: bool,
    /// What the file holds behind the last cluster in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) preallocated_size: Option<u64>,
    /// What the journal holds, if that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) journal: Option<JournalState>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) snapshots: Vec<Snapshot>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) qcow2: Option<Qcow2Description>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) flat: Option<FlatDescription>,
}

/// What only a qcow2 image has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Qcow2Description {
    pub(super) cluster_size: u64,
    #[serde(flatten)]
    pub(super) backing: Backing,
    pub(super) format_specific: Specific,
}

/// QEMU's `SnapshotInfo`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::image) struct Snapshot {
    pub(in crate::image) id: String,
    pub(in crate::image) name: String,
    pub(in crate::image) vm_state_size: u64,
    pub(in crate::image) date_sec: u32,
    pub(in crate::image) date_nsec: u32,
    pub(in crate::image) vm_clock_sec: u64,
    pub(in crate::image) vm_clock_nsec: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::image) icount: Option<u64>,
}

/// QEMU's `ImageInfoSpecific`.
#[derive(Debug, Serialize)]
pub(super) struct Specific {
    #[serde(rename = "type")]
    kind: &'static str,
    pub(super) data: SpecificData,
}

/// QEMU's `ImageInfoSpecificQCow2`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct SpecificData {
    pub(super) compat: &'static str,
    pub(super) compression_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lazy_refcounts: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) bitmaps: Vec<Bitmap>,
    pub(super) refcount_bits: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data_file_raw: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) corrupt: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extended_l2: Option<bool>,
}

/// QEMU's `Qcow2BitmapInfo`.
#[derive(Debug, Serialize)]
pub(super) struct Bitmap {
    pub(super) flags: Vec<&'static str>,
    pub(super) name: String,
    pub(super) granularity: u64,
}

impl Description {
    /// Describes the image, and with `journal` what its journal holds.
    pub(super) async fn of(layer: &Layer, journal: bool) -> Result<Self> {
        let header = layer.header.as_ref();
        let qcow2 = match header {
            Some(header) => Some(Qcow2Description::of(layer, header).await?),
            None => None,
        };
        let journal = if journal {
            Some(JournalState::of(layer).await?)
        } else {
            None
        };
        let flat = match &layer.flat {
            Some(header) => Some(FlatDescription::of(layer, header).await?),
            None => None,
        };
        let is_dirty = |header: &Header| header.incompatible.has(IncompatibleFeatures::DIRTY);
        Ok(Self {
            filename: layer.path.display().to_string(),
            format: layer.format.to_string(),
            virtual_size: layer.virtual_size_bytes(),
            actual_size: actual_size(layer)?,
            dirty_flag: layer.is_unclosed() || header.is_some_and(is_dirty),
            preallocated_size: preallocated_size(layer).await?,
            journal,
            snapshots: snapshots(layer).await?,
            qcow2,
            flat,
        })
    }
}

/// The image's snapshots, as far as its tables are not stale.
async fn snapshots(layer: &Layer) -> Result<Vec<Snapshot>> {
    let snapshots = Snapshot::all_of(layer).await;
    if layer.is_unclosed() {
        return Ok(snapshots.unwrap_or_default());
    }
    snapshots
}

/// How much space the file takes, if it is here.
fn actual_size(layer: &Layer) -> Result<Option<u64>> {
    if layer.storage.is_remote() {
        return Ok(None);
    }
    let metadata = std::fs::metadata(&layer.path);
    let metadata = metadata.with_context(|| layer.path.display().to_string())?;
    Ok(Some(metadata.blocks() * 512))
}

/// What the file holds behind the last cluster in use, if there is anything.
async fn preallocated_size(layer: &Layer) -> Result<Option<u64>> {
    // The refcounts of an image that was not closed are stale.
    let header = layer.header.as_ref().filter(|h| h.journal.is_none());
    let Some(header) = header else {
        return Ok(None);
    };
    let bytes = qcow2::preallocated_bytes(&layer.storage, header).await?;
    Ok((bytes > 0).then_some(bytes))
}

impl Qcow2Description {
    async fn of(layer: &Layer, header: &Header) -> Result<Self> {
        let bitmaps = layer.bitmaps().await;
        // Tables may be stale where an image was not closed, and others may have their place.
        let bitmaps = if header.journal.is_some() {
            bitmaps.unwrap_or_default()
        } else {
            bitmaps?
        };
        Ok(Self {
            cluster_size: header.layout.cluster_bytes(),
            backing: Backing::of(
                layer,
                header.backing_file.as_ref(),
                header.backing_format.as_ref(),
            ),
            format_specific: Specific {
                kind: "qcow2",
                data: SpecificData::of(header, &bitmaps),
            },
        })
    }
}

impl Snapshot {
    /// Those of an image, whatever its format.
    pub(in crate::image) async fn all_of(layer: &Layer) -> Result<Vec<Self>> {
        let flat = layer.flat_snapshots().await?;
        let qcow2 = layer.snapshots().await?;
        Ok(flat
            .iter()
            .map(Self::of_flat)
            .chain(qcow2.iter().map(Self::of))
            .collect())
    }

    /// There is no state of a VM in a flat image.
    fn of_flat(snapshot: &flat::Snapshot) -> Self {
        Self {
            id: snapshot.id.to_string(),
            name: snapshot.name.clone(),
            vm_state_size: 0,
            date_sec: u32::try_from(snapshot.date_seconds).unwrap_or(u32::MAX),
            date_nsec: snapshot.date_ns,
            vm_clock_sec: 0,
            vm_clock_nsec: 0,
            icount: None,
        }
    }

    fn of(entry: &SnapshotEntry) -> Self {
        Self {
            id: entry.id.clone(),
            name: entry.name.clone(),
            vm_state_size: entry.vm_state_bytes,
            date_sec: entry.date_seconds,
            date_nsec: entry.date_ns,
            vm_clock_sec: entry.vm_clock_ns / 1_000_000_000,
            vm_clock_nsec: entry.vm_clock_ns % 1_000_000_000,
            // The first of the later fields; all ones where a guest did not count instructions.
            icount: (entry.unknown_extra.first_chunk().copied())
                .map(u64::from_be_bytes)
                .filter(|count| *count != u64::MAX),
        }
    }
}

impl SpecificData {
    fn of(header: &Header, bitmaps: &[BitmapEntry]) -> Self {
        let v3 = |value: bool| (header.version >= 3).then_some(value);
        let data_file = header.has_data_file();
        Self {
            compat: if header.version == 2 { "0.10" } else { "1.1" },
            compression_type: match header.compression {
                Compression::Zlib => "zlib",
                Compression::Zstd => "zstd",
            },
            lazy_refcounts: v3(header.compatible.0 & CompatibleFeatures::LAZY_REFCOUNTS != 0),
            bitmaps: bitmaps.iter().map(Bitmap::of).collect(),
            refcount_bits: header.layout.refcount_width.bits(),
            data_file: header.data_file.clone().filter(|_| data_file),
            data_file_raw: data_file
                .then_some(header.autoclear.0 & AutoclearFeatures::DATA_FILE_RAW != 0),
            corrupt: v3(header.incompatible.has(IncompatibleFeatures::CORRUPT)),
            extended_l2: v3(header.layout.extended_l2),
        }
    }
}

impl Bitmap {
    fn of(entry: &BitmapEntry) -> Self {
        let flags = [(BitmapFlags::IN_USE, "in-use"), (BitmapFlags::AUTO, "auto")];
        let set = flags.iter().filter(|(bit, _)| entry.flags.0 & bit != 0);
        Self {
            flags: set.map(|(_, name)| *name).collect(),
            name: entry.name.clone(),
            granularity: 1 << entry.granularity_bits,
        }
    }
}
