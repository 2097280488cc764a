//! Text on COM1, a 16550.

use crate::port;

const DATA: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = DATA + 1;
const RECEIVED: u8 = 1 << 0;
const LINE_STATUS: u16 = DATA + 5;
const DATA_READY: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// Writes `text`.
pub fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// Writes `bytes` as they are.
pub fn print_bytes(bytes: &[u8]) {
    for &byte in bytes {
        print_byte(byte);
    }
}

/// Writes one byte.
pub fn print_byte(byte: u8) {
    while port::read(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
    port::write(DATA, byte);
}

/// Writes `number` in decimal.
pub fn print_number(number: u64) {
    if number >= 10 {
        print_number(number / 10);
    }
    print_byte(b'0' + (number % 10).to_le_bytes()[0]);
}

/// Opens the port for input: until a driver asks for its interrupts, nothing need be sent to it.
/// The processor takes no interrupts, so the driver polls all the same.
pub fn listen() {
    port::write(INTERRUPT_ENABLE, RECEIVED);
}

/// Waits for a byte of input.
pub fn read_byte() -> u8 {
    while port::read(LINE_STATUS) & DATA_READY == 0 {}
    port::read(DATA)
}
