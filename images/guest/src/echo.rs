//! Sends input back, which shows that none of it gets lost.

use crate::{Outcome, console};

/// Ends the input, as on a terminal.
const CONTROL_D: u8 = 4;

/// Sends back each byte of input up to a Ctrl-D.
pub(crate) fn run() -> Outcome {
    console::listen();
    loop {
        match console::read_byte() {
            CONTROL_D => {
                console::print("\n");
                return Ok(());
            }
            byte => console::print_byte(byte),
        }
    }
}
