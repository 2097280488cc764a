//! What a guest wrote on its console, and how far a test has read it.

/// The text so far and a place in it.
#[derive(Debug, Default)]
pub(crate) struct Console {
    text: String,
    /// Bytes of a character that is not complete yet.
    rest: Vec<u8>,
    read: usize,
}

impl Console {
    /// Appends what came in. A terminal's line ends become a program's.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let whole = match str::from_utf8(&self.rest) {
            // A character cut in two is completed by the next bytes; garbage is not.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Ok(_) | Err(_) => self.rest.len(),
        };
        let bytes: Vec<u8> = self.rest.drain(..whole).collect();
        self.text.extend(
            String::from_utf8_lossy(&bytes)
                .chars()
                .filter(|c| *c != '\r'),
        );
    }

    /// Reads on to the end of the next `pattern` and returns what stands before it.
    pub(crate) fn take_until(&mut self, pattern: &str) -> Option<&str> {
        let unread = &self.text[self.read..];
        let start = self.read;
        let length = unread.find(pattern)?;
        self.read += length + pattern.len();
        Some(&self.text[start..start + length])
    }

    /// Everything from the beginning.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_found_across_pieces_and_once() {
        let mut console = Console::default();
        console.append(b"login: gu");
        assert_eq!(console.take_until("guest# "), None);
        console.append(b"est# done\r\n");
        assert_eq!(console.take_until("guest# "), Some("login: "));
        assert_eq!(console.take_until("guest# "), None);
        assert_eq!(console.take_until("\n"), Some("done"));
    }

    #[test]
    fn a_character_cut_in_two_and_garbage_are_both_read() {
        let mut console = Console::default();
        console.append(&[b'a', 0xc3]);
        console.append(&[0xa9, b'b', 0xff]);
        console.append(b"c");
        assert_eq!(console.text(), "aéb\u{fffd}c");
    }
}
