//! Order without durability: `fdatabarrier` of `BarrierFS` (Won and others, FAST'18).
//!
//! No stock kernel has the system call, and those that do have it at a number of their own. So
//! whoever knows the host gives the number, and it is tried out before anything rests on it.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::Error;
use crate::reactor::barrier;

/// Whether writes to a file can be kept in order without a sync.
pub(super) enum Barrier {
    /// Nobody has given the number of the system call.
    Unknown,
    /// The host refused the system call with this number.
    Refused { number: u32, source: io::Error },
    /// The host did the system call with this number.
    Works { number: u32 },
}

impl Barrier {
    /// Tries the system call on `file`, which asks for no more than an order of writes.
    pub(super) fn probe(file: &File, number: Option<u32>) -> Self {
        let Some(number) = number else {
            return Self::Unknown;
        };
        loop {
            match barrier(file, number) {
                Ok(_) => return Self::Works { number },
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Self::Refused { number, source },
            }
        }
    }

    /// The number of the system call; the reason, if there is none that works.
    pub(super) fn number(&self, path: &Path) -> Result<u32, Error> {
        let problem = match self {
            Self::Works { number } => return Ok(*number),
            Self::Unknown => "order=barrier needs a host kernel with the system call fdatabarrier \
                              (BarrierFS), whose number barrier-syscall=N gives"
                .to_owned(),
            Self::Refused { number, source } => format!(
                "order=barrier needs a host kernel with the system call fdatabarrier \
                 (BarrierFS), and number {number}, which barrier-syscall gives, is none here: \
                 {source}"
            ),
        };
        Err(Error::Unsupported {
            path: path.to_owned(),
            problem,
        })
    }
}
