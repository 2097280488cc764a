//! From `--disk` to a block device with its I/O thread.

use anyhow::Result;
use devices::virtio::{Block, BlockConfig};

use crate::cli::DiskArgument;

/// The size of each request queue: with indirect descriptors, the requests in flight.
const QUEUE_SIZE: u16 = 256;

/// Opens disk number `number` and starts its I/O thread, with a queue for each vCPU.
pub(super) fn open(number: usize, argument: &DiskArgument, cpus: u8) -> Result<Block> {
    let name = format!("blk{number}");
    let config = BlockConfig {
        serial: argument.serial.clone().unwrap_or_else(|| name.clone()),
        name,
        queues: cpus.into(),
        queue_size: QUEUE_SIZE,
    };
    let options = argument.open_options();
    Ok(Block::start(config, move || options.open())?)
}
