//! Notices that a guest's kernel panicked, by what it writes to its console.
//!
//! A stock kernel has no built-in driver for a panic device, and after a panic it resets like after
//! any reboot. The line it prints first tells the two apart.

/// What Linux prints in front of the reason (`kernel/panic.c`).
const MARK: &str = "Kernel panic - not syncing: ";
/// Longer lines are no panic lines; a guest cannot make us keep more.
const LINE_MAX_BYTES: usize = 512;

/// Reads along with the guest's console.
#[derive(Debug, Default)]
pub(crate) struct PanicWatch {
    line: Vec<u8>,
    reason: Option<String>,
}

impl PanicWatch {
    /// Takes the next bytes of console output.
    pub(crate) fn observe(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE_MAX_BYTES {
                self.line.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        if let Some((_, reason)) = line.split_once(MARK) {
            let printable: String = reason.chars().filter(|c| !c.is_control()).collect();
            self.reason.get_or_insert(printable);
        }
        self.line.clear();
    }

    /// The reason of the first panic since the last call, where there was one.
    pub(crate) fn take(&mut self) -> Option<String> {
        self.line.clear();
        self.reason.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_however_the_output_is_cut() {
        let text =
            b"[ 1.0] Kernel panic - not syncing: Attempted to kill init!\r\n[ 1.1] CPU: 0\r\n";
        for size in [1, 7, text.len()] {
            let mut watch = PanicWatch::default();
            text.chunks(size).for_each(|chunk| watch.observe(chunk));
            assert_eq!(watch.take().as_deref(), Some("Attempted to kill init!"));
            assert_eq!(watch.take(), None);
        }
    }

    #[test]
    fn other_output_is_no_panic_and_is_not_kept() {
        let mut watch = PanicWatch::default();
        watch.observe(&vec![b'x'; 100_000]);
        assert!(watch.line.len() <= LINE_MAX_BYTES);
        watch.observe(b"\nlogin: ");
        assert_eq!(watch.take(), None);
    }
}
