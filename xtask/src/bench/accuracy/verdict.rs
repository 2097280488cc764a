//! What was right and what was wrong of what was said of the blocks of a disk.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

/// The blocks of one disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Of files: of their class, of a smaller file's, of a larger one's, of none, of metadata.
    pub(super) right: u64,
    pub(super) smaller: u64,
    pub(super) larger: u64,
    pub(super) unknown: u64,
    pub(super) as_metadata: u64,
    /// Of the file system: told as that, taken for a file's, for nothing.
    pub(super) metadata: u64,
    pub(super) as_file: u64,
    pub(super) neither: u64,
}

impl Verdict {
    /// Reads the line of `guest-syscalls judge`, on a disk whose files have so many blocks of zeros.
    /// The file system has zeros of its own, so those that are met nowhere else are the files'.
    pub(super) fn parse(line: &str, zeros: u64) -> Result<Self> {
        let of = |name: &str| -> Result<u64> {
            let value = line
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let value = value.and_then(|value| value.parse().ok());
            value.with_context(|| format!("judge: no {name} in '{line}'"))
        };
        let zeros_of_files = of("zeros_of_files")?.min(zeros);
        let zeros_unknown = of("zeros_neither")?.min(zeros - zeros_of_files);
        Ok(Self {
            right: of("right")? + zeros_of_files,
            smaller: of("smaller")?,
            larger: of("larger")?,
            unknown: of("unknown")? + zeros_unknown,
            as_metadata: of("taken_for_metadata")? + zeros - zeros_of_files - zeros_unknown,
            metadata: of("metadata")?,
            as_file: of("taken_for_files")?,
            neither: of("neither")?,
        })
    }
}

/// A table of rows, each with a file system, a way, and what was found.
pub(super) fn table(rows: &[(String, String, Verdict)]) -> String {
    let mut text = format!(
        "{:<6} {:<26} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9} {:>8} {:>8}\n",
        "fs",
        "way",
        "right",
        "smaller",
        "larger",
        "unknown",
        "file>meta",
        "metadata",
        "meta>fil",
        "meta>non"
    );
    for (fs, way, verdict) in rows {
        let Verdict {
            right,
            smaller,
            larger,
            unknown,
            as_metadata,
            metadata,
            as_file,
            neither,
        } = verdict;
        let _ = writeln!(
            text,
            "{fs:<6} {way:<26} {right:>7} {smaller:>7} {larger:>7} {unknown:>7} {as_metadata:>9} \
             {metadata:>9} {as_file:>8} {neither:>8}"
        );
    }
    text.push_str(
        "\nBlocks of files: of their class, of a smaller file's, of a larger one's, not known, \
         taken for metadata.\nOf the file system: told as that, taken for a file's, for neither.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "judge right=1 unknown=2 smaller=3 larger=4 taken_for_metadata=5 metadata=6 \
                        taken_for_files=7 neither=8 zeros_of_files=10 zeros_neither=30\n";

    #[test]
    fn zeros_count_where_files_have_them() {
        let without = Verdict {
            right: 1,
            smaller: 3,
            larger: 4,
            unknown: 2,
            as_metadata: 5,
            metadata: 6,
            as_file: 7,
            neither: 8,
        };
        assert_eq!(Verdict::parse(LINE, 0).unwrap(), without);
        let all_unknown = Verdict {
            right: 11,
            unknown: 31,
            ..without
        };
        assert_eq!(Verdict::parse(LINE, 39).unwrap(), all_unknown);
        let some_missing = Verdict {
            right: 11,
            unknown: 32,
            as_metadata: 6,
            ..without
        };
        assert_eq!(Verdict::parse(LINE, 41).unwrap(), some_missing);
        assert!(Verdict::parse("judge right=1", 0).is_err());
    }

    #[test]
    fn each_number_is_in_its_column() {
        let verdict = Verdict::parse(LINE, 0).unwrap();
        let text = table(&[("xfs".to_owned(), "mmap".to_owned(), verdict)]);
        let row = text.lines().nth(1).unwrap();
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(
            words,
            ["xfs", "mmap", "1", "3", "4", "2", "5", "6", "7", "8"]
        );
    }
}
