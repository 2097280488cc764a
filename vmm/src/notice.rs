//! What the program tells its user, on standard error.

use std::io::{self, Write};

/// Writes `text` as it is. Where standard error is closed, full or a terminal that has gone away,
/// there is nobody to tell, and the guest goes on: `eprintln!` would panic.
pub(crate) fn notice(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
