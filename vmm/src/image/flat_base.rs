//! What a new flat image is to know of its base: how large it is, and what of it is zeros.

use std::cell::Cell;

use anyhow::{Result, bail};
use clap::ValueEnum;
use disk::flat::{ZeroBlocks, find_zero_blocks};
use disk::{Disk, Format};

use super::arguments::ProgressArguments;
use super::interrupt::Interrupt;
use super::options::ImageOptions;
use super::progress::Progress;

/// How a base is looked at for blocks of zeros, which need nothing from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scan {
    /// All of it is read.
    Full,
    /// What it says itself to be zeros.
    Holes,
    /// Not at all.
    Off,
}

/// What a new flat image is to know of its base.
pub(super) struct FlatBase {
    size_bytes: u64,
    zero_blocks: Option<ZeroBlocks>,
}

impl FlatBase {
    /// Looks at the base of an image of `size_bytes`, if a flat one is to be made, and has any.
    pub(super) async fn look(
        options: &ImageOptions,
        base: Option<&dyn Disk>,
        size_bytes: u64,
        progress: ProgressArguments,
        interrupt: &Interrupt,
    ) -> Result<Option<Self>> {
        if options.format != Format::Flat {
            return Ok(None);
        }
        let Some(base) = base else {
            return match &options.backing_file {
                Some(name) => bail!(
                    "-u: a flat image records how large its base '{name}' is, which must be opened \
                     for that; leave out -u, and rename the base later (image rebase -u)"
                ),
                None => Ok(None),
            };
        };
        let base_bytes = base.properties().size_bytes;
        let zero_blocks = match options.scan() {
            Scan::Off => None,
            scan => {
                let len = size_bytes.min(base_bytes);
                let options = options.flat(size_bytes, Some(base_bytes))?;
                // Before a look at all of what is too large.
                options.check().map_err(anyhow::Error::msg)?;
                let block_bytes = 1 << options.block_bits;
                let progress = Progress::new(progress, len);
                let done = Cell::new(0);
                let tell = |now| progress.add(now - done.replace(now));
                let thorough = scan == Scan::Full;
                let found = find_zero_blocks(base, len, block_bytes, thorough, tell);
                Some(interrupt.stop(found).await??)
            }
        };
        Ok(Some(Self {
            size_bytes: base_bytes,
            zero_blocks,
        }))
    }

    /// One of which nobody has looked what it holds.
    pub(super) fn unseen(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            zero_blocks: None,
        }
    }

    /// How large it is.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What of it is zeros, as far as anybody has looked.
    pub(super) fn zero_blocks(&self) -> Option<&ZeroBlocks> {
        self.zero_blocks.as_ref()
    }
}
