//! `microvm doctor`: what this host can do, what it cannot, and the remedy.

mod host;
mod kvm;
mod storage;

use std::fmt;
use std::path::Path;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Guests run, but slower or with less than they could have.
    Fair,
    /// Guests do not run.
    Bad,
}

/// One line of the report.
#[derive(Debug)]
struct Finding {
    verdict: Verdict,
    subject: String,
    says: String,
    remedy: Option<String>,
}

impl Finding {
    fn good(subject: impl Into<String>, says: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Good,
            subject: subject.into(),
            says: says.into(),
            remedy: None,
        }
    }

    fn fair(subject: impl Into<String>, says: impl Into<String>, remedy: &str) -> Self {
        let remedy = Some(remedy.to_string());
        Self {
            verdict: Verdict::Fair,
            subject: subject.into(),
            says: says.into(),
            remedy,
        }
    }

    fn bad(subject: impl Into<String>, says: impl Into<String>, remedy: &str) -> Self {
        Self {
            verdict: Verdict::Bad,
            ..Self::fair(subject, says, remedy)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Good => "ok  ",
            Verdict::Fair => "warn",
            Verdict::Bad => "FAIL",
        };
        write!(f, "{verdict}  {}: {}", self.subject, self.says)?;
        self.remedy
            .as_ref()
            .map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

/// Prints the report; the status is 0 where guests can run.
pub(crate) fn doctor(image: Option<&Path>) -> u8 {
    let mut findings = kvm::examine();
    findings.extend(host::examine());
    if let Some(image) = image {
        findings.extend(storage::examine(image));
    }
    for finding in &findings {
        println!("{finding}");
    }
    let bad = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Bad);
    u8::from(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_with_its_remedy() {
        let finding = Finding::bad("/dev/kvm", "missing", "load kvm_amd");
        assert_eq!(finding.to_string(), "FAIL  /dev/kvm: missing; load kvm_amd");
    }
}
