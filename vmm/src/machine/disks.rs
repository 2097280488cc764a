//! From `--disk` to a block device with its I/O thread.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use devices::virtio::{Block, BlockConfig};
use disk::{Classified, Disk};

use crate::cli::DiskArgument;
use crate::control::Disks;
use crate::insight::{DiskInsight, Insight};

/// The size of each request queue: with indirect descriptors, the requests in flight.
const QUEUE_SIZE: u16 = 256;

/// Opens disk number `number` and starts its I/O thread, with a queue for each vCPU.
pub(super) fn open(
    (number, argument): (usize, &DiskArgument),
    disks: &Arc<Disks>,
    insight: Option<&Arc<Insight>>,
    cpus: u8,
) -> Result<Block> {
    let name = format!("blk{number}");
    let config = BlockConfig {
        serial: argument.serial.clone().unwrap_or_else(|| name.clone()),
        name,
        queues: cpus.into(),
        queue_size: QUEUE_SIZE,
    };
    let telling = argument.clone();
    let insight = insight.map(|insight| DiskInsight::new(Arc::clone(insight), number));
    let tell = move |disk: Rc<dyn Disk>| -> Rc<dyn Disk> {
        let Some(insight) = insight else {
            return telling.tell_metadata(disk);
        };
        let classifier = insight.classifier(disk.properties().size_bytes);
        Rc::new(Classified::new(disk, classifier))
    };
    Ok(Block::start(config, disks.opener(number, argument, tell)?)?)
}
