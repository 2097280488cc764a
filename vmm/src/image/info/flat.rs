//! What only a flat image has.

use anyhow::Result;
use disk::Layer;
use disk::flat::{
    self,
    format::{Chunks, Header},
};
use serde::Serialize;

use super::backing::Backing;

/// What only a flat image has. Its base is called as QEMU calls that of a qcow2 image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct FlatDescription {
    #[serde(flatten)]
    pub(super) backing: Backing,
    format_specific: Specific,
}

/// As QEMU has it for its own formats.
#[derive(Debug, Serialize)]
struct Specific {
    #[serde(rename = "type")]
    kind: &'static str,
    data: FlatData,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct FlatData {
    block_size: u64,
    /// Where the disk begins in the file.
    data_offset: u64,
    /// Whether it has no base.
    stands_alone: bool,
    /// How large its base was when the image was put on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    base_size: Option<u64>,
    /// What the base's server called it then, if it is far away and has such a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    base_version: Option<String>,
    /// How many blocks could come from the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    covered_blocks: Option<u64>,
    /// How many blocks do come from the base; unknown where an image was not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks_from_base: Option<u64>,
    /// Whether only chunks that hold something have a place in the file.
    compact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_size: Option<u64>,
    /// How many chunks the disk has.
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<u64>,
    /// How many of them have a place; unknown where an image was not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_chunks: Option<u64>,
}

impl FlatDescription {
    pub(super) async fn of(layer: &Layer, header: &Header) -> Result<Self> {
        let (base, chunks) = (header.base.as_ref(), header.chunks.as_ref());
        // Where there is a journal, the table is stale too.
        let allocated_chunks = match chunks {
            Some(_) if !layer.is_unclosed() => {
                Some(flat::placed_chunks(&layer.storage, header).await?)
            }
            _ => None,
        };
        let blocks_from_base = match base {
            // Where there is a journal, the bitmap is stale.
            Some(_) if !layer.is_unclosed() => {
                Some(flat::missing_blocks(&layer.storage, header).await?)
            }
            _ => None,
        };
        Ok(Self {
            backing: Backing::of(
                layer,
                base.map(|base| &base.name),
                base.map(|base| &base.format),
            ),
            format_specific: Specific {
                kind: "flat",
                data: FlatData {
                    block_size: header.block_bytes(),
                    data_offset: header.data_offset,
                    stands_alone: base.is_none(),
                    base_size: base.map(|_| header.base_bytes),
                    base_version: base.and_then(|base| base.version.clone()),
                    covered_blocks: base.map(|_| header.covered_blocks()),
                    blocks_from_base,
                    compact: chunks.is_some(),
                    chunk_size: chunks.map(Chunks::bytes),
                    chunks: chunks.map(|chunks| header.size_bytes.div_ceil(chunks.bytes())),
                    allocated_chunks,
                },
            },
        })
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let data = &self.format_specific.data;
        let blocks = |(missing, covered)| format!("blocks from the base: {missing} of {covered}");
        let allocated = |(allocated, all)| format!("allocated chunks: {allocated} of {all}");
        let lines = [
            Some(format!("block size: {}", data.block_size)),
            Some(format!("data offset: {}", data.data_offset)),
            data.stands_alone.then(|| "stands alone: yes".to_owned()),
            data.base_size.map(|bytes| format!("base size: {bytes}")),
            (data.base_version.as_ref()).map(|version| format!("base version: {version}")),
            data.blocks_from_base.zip(data.covered_blocks).map(blocks),
            data.chunk_size.map(|bytes| format!("chunk size: {bytes}")),
            data.allocated_chunks.zip(data.chunks).map(allocated),
        ];
        lines.into_iter().flatten().collect()
    }
}
