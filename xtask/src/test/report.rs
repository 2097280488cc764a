//! What the steps found, added up.

use std::fmt;

/// Counts of tests, and the names of those that somebody must look at.
#[derive(Debug, Default)]
pub(super) struct Report {
    passed: usize,
    failures: Vec<String>,
    skips: Vec<String>,
}

impl Report {
    /// Notes a test that did what it should.
    pub(super) fn pass(&mut self) {
        self.passed += 1;
    }

    /// Notes one that did not.
    pub(super) fn fail(&mut self, name: &str) {
        self.failures.push(name.to_owned());
    }

    /// Adds what another step found.
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
    }

    /// Moves tests from the passed to the skipped: `notes` has one a line, name, tab, reason.
    pub(super) fn skip(&mut self, notes: &str) {
        for note in notes.lines() {
            self.passed = self.passed.saturating_sub(1);
            self.skips.push(note.replace('\t', ": "));
        }
    }

    /// Reads a line of what the test programs print.
    pub(super) fn read_line(&mut self, line: &str) {
        let Some((name, verdict)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        else {
            return;
        };
        match verdict.split_whitespace().next() {
            Some("ok") => self.pass(),
            Some("FAILED") => self.fail(name),
            Some("ignored" | "ignored,") => self.skips.push(name.to_owned()),
            _ => {}
        }
    }

    /// Whether anything failed.
    pub(super) fn failed(&self) -> bool {
        !self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.failures {
            writeln!(f, "failed: {name}")?;
        }
        for name in &self.skips {
            writeln!(f, "skipped: {name}")?;
        }
        let (passed, failed, skipped) = (self.passed, self.failures.len(), self.skips.len());
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_test_programs_are_counted_and_others_are_not() {
        let mut report = Report::default();
        for line in [
            "running 5 tests",
            "test boots::bzimage ... ok",
            "test boots::vmlinux has been running for over 60 seconds",
            "test boots::slow ... FAILED",
            "test src/lib.rs - (line 5) - compile ... ok",
            "test later ... ignored, no reason",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored",
        ] {
            report.read_line(line);
        }
        let text = "failed: boots::slow\nskipped: later\n2 passed, 1 failed, 1 skipped";
        assert_eq!(report.to_string(), text);
    }

    #[test]
    fn a_test_that_skips_itself_does_not_count_as_passed() {
        let mut report = Report::default();
        report.read_line("test a ... ok");
        report.skip("a\tno fio here\n");
        assert_eq!(
            report.to_string(),
            "skipped: a: no fio here\n0 passed, 0 failed, 1 skipped"
        );
        assert!(!report.failed());
    }
}
