//! What a check found.

/// The most findings that are put in words: an image may have millions.
const FINDINGS_MAX: usize = 1000;

/// What a check may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    None,
    /// Refcounts that are too high.
    Leaks,
    /// Everything. Entries that point to where no data can be are emptied.
    All,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Data is or can get lost.
    Corruption,
    /// Space is wasted.
    Leak,
    /// A part could not be checked.
    Unchecked,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub problem: String,
}

/// What a check found, in the numbers that `qemu-img check` reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What is wrong and may cost data.
    pub corruptions: u64,
    /// Clusters that are in use for nothing.
    pub leaks: u64,
    /// Corruptions that were repaired.
    pub corruptions_fixed: u64,
    /// Leaks that were repaired.
    pub leaks_fixed: u64,
    /// Parts that could not be read.
    pub check_errors: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Those that have data of their own.
    pub allocated_clusters: u64,
    /// Those that do not follow the one before in the file.
    pub fragmented_clusters: u64,
    /// Those that are compressed.
    pub compressed_clusters: u64,
    /// Where the last cluster in use ends.
    pub image_end_offset: u64,
    /// What is wrong, in words: the first thousand.
    pub findings: Vec<Finding>,
    /// What was wrong before the repair, in words: the first thousand.
    pub repaired: Vec<Finding>,
}

impl CheckReport {
    /// The status with which `qemu-img check` ends: 0 if all is well, 1 if the check is incomplete,
    /// 2 for corruptions, 3 for leaks only.
    pub fn exit_status(&self) -> u8 {
        match self {
            report if report.check_errors > 0 => 1,
            report if report.corruptions > 0 => 2,
            report if report.leaks > 0 => 3,
            _ => 0,
        }
    }

    pub(crate) fn corruption(&mut self, offset: u64, problem: impl Into<String>) {
        self.corruptions += 1;
        self.find(Severity::Corruption, offset, problem.into());
    }

    pub(crate) fn leak(&mut self, offset: u64, problem: impl Into<String>) {
        self.leaks += 1;
        self.find(Severity::Leak, offset, problem.into());
    }

    pub(crate) fn unchecked(&mut self, offset: u64, problem: impl Into<String>) {
        self.check_errors += 1;
        self.find(Severity::Unchecked, offset, problem.into());
    }

    fn find(&mut self, severity: Severity, offset: u64, problem: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding {
                severity,
                offset,
                problem,
            });
        }
    }
}
