//! What the host can do for disks.

use crate::Error;
use crate::reactor::uring_features;

/// Whether `io_uring` is there, allowed and recent enough: the mode in which we would use it, or
/// what is wrong.
pub fn io_uring() -> Result<&'static str, Error> {
    uring_features().map_err(Error::setup("io_uring"))
}
