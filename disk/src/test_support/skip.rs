//! Tells of tests that did not run: a test that is skipped passes, but not unseen.

use std::env;
use std::fs::File;
use std::io::Write as _;

/// Names the file that collects skipped tests, one a line: the name, a tab, the reason.
const SKIPS: &str = "MICROVM_TEST_SKIPS";

/// Notes that a test cannot run here.
pub(crate) fn skip(test: &str, reason: &str) {
    eprintln!("skipped: {test}: {reason}");
    if let Some(path) = env::var_os(SKIPS) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        writeln!(file, "{test}\t{reason}").unwrap();
    }
}
