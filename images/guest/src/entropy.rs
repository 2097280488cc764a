//! Drives a virtio entropy device (virtio 1.2 section 5.4).

use crate::command_line::CommandLine;
use crate::device::Device;
use crate::memory::DATA;
use crate::transport::Either;
use crate::virtqueue::{Descriptor, End, WRITE};
use crate::{Outcome, pattern};

const DEVICE_TYPE: u16 = 4;

/// As long as chance can hardly leave all of it zero.
const DRAWN_BYTES: u32 = 64;

/// Draws random bytes.
pub(crate) fn run(command_line: &CommandLine) -> Outcome {
    let found = Either::find(command_line, DEVICE_TYPE)?;
    let mut device = Device::start(found.transport(), 0)?;
    pattern::fill_with(DATA, u64::from(DRAWN_BYTES), 0);
    let buffer = Descriptor {
        address: DATA,
        len_bytes: DRAWN_BYTES,
        flags: WRITE,
        next: 0,
    };
    device
        .queue
        .put(device.queue.rings().descriptors, 0, buffer);
    match device.queue.offer(device.transport, 0) {
        End::Used if pattern::is_zero(DATA, u64::from(DRAWN_BYTES)) => Err("no entropy came"),
        End::Used => Ok(()),
        End::Broken => Err("the device broke on a correct request"),
        End::Silent => Err("the device does not answer"),
    }
}
