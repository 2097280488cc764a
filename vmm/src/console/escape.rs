//! The keys that the program keeps for itself while a terminal is the guest's console.

/// Ctrl-A, which starts an escape, as in QEMU and screen.
const PREFIX: u8 = 0x01;

/// What a typed byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// The guest gets this byte.
    Guest(u8),
    /// Ctrl-A x: end the program.
    Quit,
    /// Ctrl-A c: pause the guest, or let it go on.
    Pause,
    /// Ctrl-A h, or any other key after Ctrl-A: show the keys.
    Help,
    /// The first half of an escape.
    Nothing,
}

/// What the help key shows.
pub(crate) const HELP: &str =
    "\r\nCtrl-A x  quit\r\nCtrl-A c  pause or go on\r\nCtrl-A Ctrl-A  send Ctrl-A\r\n";

/// Recognises escapes in what is typed.
#[derive(Debug, Default)]
pub(crate) struct Escape {
    prefixed: bool,
}

impl Escape {
    /// Takes the next byte typed.
    pub(crate) fn key(&mut self, byte: u8) -> Key {
        if !std::mem::take(&mut self.prefixed) {
            self.prefixed = byte == PREFIX;
            return if self.prefixed {
                Key::Nothing
            } else {
                Key::Guest(byte)
            };
        }
        match byte {
            b'x' | b'X' => Key::Quit,
            b'c' | b'C' => Key::Pause,
            PREFIX => Key::Guest(PREFIX),
            _ => Key::Help,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(typed: &[u8]) -> Vec<Key> {
        let mut escape = Escape::default();
        typed.iter().map(|&byte| escape.key(byte)).collect()
    }

    #[test]
    fn ordinary_bytes_reach_the_guest() {
        assert_eq!(keys(b"x\x03"), [Key::Guest(b'x'), Key::Guest(3)]);
    }

    #[test]
    fn the_prefix_makes_the_next_byte_a_command_only_once() {
        assert_eq!(keys(b"\x01xx"), [Key::Nothing, Key::Quit, Key::Guest(b'x')]);
        assert_eq!(keys(b"\x01c"), [Key::Nothing, Key::Pause]);
        assert_eq!(keys(b"\x01?"), [Key::Nothing, Key::Help]);
    }

    #[test]
    fn the_prefix_twice_sends_it_once() {
        assert_eq!(
            keys(b"\x01\x01x"),
            [Key::Nothing, Key::Guest(1), Key::Guest(b'x')]
        );
    }
}
