//! From `--disk` to a block device with its I/O thread.

use std::sync::Arc;

use anyhow::Result;
use devices::virtio::{Block, BlockConfig};

use crate::cli::DiskArgument;
use crate::control::Disks;

/// The size of each request queue: with indirect descriptors, the requests in flight.
const QUEUE_SIZE: u16 = 256;

/// Opens disk number `number` and starts its I/O thread, with a queue for each vCPU.
pub(super) fn open(
    (number, argument): (usize, &DiskArgument),
    disks: &Arc<Disks>,
    cpus: u8,
) -> Result<Block> {
    let name = format!("blk{number}");
    let config = BlockConfig {
        serial: argument.serial.clone().unwrap_or_else(|| name.clone()),
        name,
        queues: cpus.into(),
        queue_size: QUEUE_SIZE,
    };
    Ok(Block::start(config, disks.opener(number, argument)?)?)
}
