//! The clock chip, an MC146818, for its registers.

use crate::{Outcome, port};

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
/// Register D says that time and memory are valid, in its highest bit, and nothing else.
const REGISTER_D: u8 = 0x0d;
const VALID: u8 = 0x80;

/// Reads register D many times by one instruction, all of whose reads are of the same port.
pub(crate) fn read_by_string_instruction() -> Outcome {
    port::write(INDEX, REGISTER_D);
    let mut values = [0; 8];
    port::read_string(DATA, &mut values);
    if values == [VALID; 8] {
        Ok(())
    } else {
        Err("a string instruction read other ports than its own")
    }
}
