//! Tells of tests that did not run: a test that is skipped passes, but not unseen.

use std::fs::File;
use std::io::Write as _;

/// Names the file that collects skipped tests, one a line: the name, a tab, the reason.
pub const SKIPS_VARIABLE: &str = "MICROVM_TEST_SKIPS";

/// Notes that a test cannot run here.
///
/// # Panics
/// When the note cannot be written: it would go unseen.
pub fn skip(test: &str, reason: &str) {
    eprintln!("skipped: {test}: {reason}");
    if let Some(path) = std::env::var_os(SKIPS_VARIABLE) {
        let line = format!("{test}\t{reason}\n");
        let written = File::options()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        assert!(written.is_ok(), "{}: {written:?}", path.display());
    }
}
