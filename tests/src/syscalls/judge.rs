//! Compares what a cache says that blocks are with what they are.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use insight_hints::Class;

use super::content::{BLOCK_BYTES, truth};

const SECTOR_BYTES: u64 = 512;
/// What microvm calls the classes that are no file's.
const METADATA: &str = "metadata";
const OTHER: &str = "other";

/// How often each was right, and how it was wrong.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdicts {
    /// Blocks of files: of their own class, of none, of a smaller file's, of a larger one's, taken
    /// for metadata.
    right: u64,
    unknown: u64,
    smaller: u64,
    larger: u64,
    taken_for_metadata: u64,
    /// Blocks without a mark: taken for metadata, for a file's, for neither.
    metadata: u64,
    taken_for_files: u64,
    neither: u64,
    /// Blocks of zeros, which do not say whose they are: taken for a file's, for metadata, for
    /// neither.
    zeros_of_files: u64,
    zeros_metadata: u64,
    zeros_neither: u64,
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "judge right={} unknown={} smaller={} larger={} taken_for_metadata={} metadata={} \
             taken_for_files={} neither={} zeros_of_files={} zeros_metadata={} zeros_neither={}",
            self.right,
            self.unknown,
            self.smaller,
            self.larger,
            self.taken_for_metadata,
            self.metadata,
            self.taken_for_files,
            self.neither,
            self.zeros_of_files,
            self.zeros_metadata,
            self.zeros_neither
        )
    }
}

impl Verdicts {
    /// Adds what was said of a block.
    fn add(&mut self, block: &[u8], said: &str) {
        let count = match truth(block) {
            None if block.iter().all(|&byte| byte == 0) => match said {
                METADATA => &mut self.zeros_metadata,
                OTHER => &mut self.zeros_neither,
                _ => &mut self.zeros_of_files,
            },
            None if said == METADATA => &mut self.metadata,
            None if said == OTHER => &mut self.neither,
            None => &mut self.taken_for_files,
            Some(truth) if said == name(truth.class) => &mut self.right,
            Some(_) if said == OTHER => &mut self.unknown,
            Some(_) if said == METADATA => &mut self.taken_for_metadata,
            Some(truth) if is_above(said, truth.class) => &mut self.smaller,
            Some(_) => &mut self.larger,
        };
        *count += 1;
    }
}

/// Judges the lines of `microvm control PATH cache list DISK` in a file by the image of that disk.
pub(super) fn run(image: &Path, list: &Path) -> Result<String> {
    let lines = fs::read_to_string(list).with_context(|| format!("{}", list.display()))?;
    let image = File::open(image).with_context(|| format!("{}", image.display()))?;
    let mut verdicts = Verdicts::default();
    for line in lines.lines() {
        let mut words = line.splitn(4, ' ');
        let mut next = || words.next().with_context(|| format!("'{line}': too short"));
        let (first, count): (u64, u64) = (next()?.parse()?, next()?.parse()?);
        let (_state, said) = (next()?, next()?);
        let range = first * SECTOR_BYTES..(first + count) * SECTOR_BYTES;
        for at in range.step_by(BLOCK_BYTES) {
            let mut block = [0; BLOCK_BYTES];
            image.read_exact_at(&mut block, at)?;
            verdicts.add(&block, said);
        }
    }
    Ok(verdicts.to_string())
}

/// Whether what was said is a higher class, which smaller files have.
fn is_above(said: &str, class: Class) -> bool {
    let mut said_ones = Class::ALL.into_iter().filter(|other| name(*other) == said);
    said_ones.any(|other| other > class)
}

/// What microvm calls a class.
fn name(class: Class) -> &'static str {
    match class {
        Class::Other => OTHER,
        Class::Below10Mib => "below 10 MiB",
        Class::Below5Mib => "below 5 MiB",
        Class::Below2Mib => "below 2 MiB",
        Class::Below1Mib => "below 1 MiB",
        Class::Metadata => METADATA,
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::{Truth, block};
    use super::*;

    #[test]
    fn each_mistake_is_counted_as_what_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (image, list) = (
            directory.path().join("image"),
            directory.path().join("list"),
        );
        let marked = block(
            1,
            Truth {
                file: Some(1),
                block: 0,
                class: Class::Below2Mib,
            },
        );
        let zeros = [0; BLOCK_BYTES];
        let other = [7; BLOCK_BYTES];
        let blocks = [marked.repeat(5), [other; 3].concat(), [zeros; 4].concat()];
        fs::write(&image, blocks.concat()).unwrap();
        let said = [
            "below 2 MiB",
            "other",
            "below 1 MiB",
            "below 5 MiB",
            "metadata",
            "metadata",
            "below 1 MiB",
            "other",
            "metadata",
            "below 1 MiB",
            "below 5 MiB",
            "other",
        ];
        let lines = said
            .iter()
            .enumerate()
            .map(|(number, said)| format!("{} 8 clean {said}\n", 8 * number));
        fs::write(&list, lines.collect::<String>()).unwrap();
        assert_eq!(
            run(&image, &list).unwrap(),
            "judge right=1 unknown=1 smaller=1 larger=1 taken_for_metadata=1 metadata=1 \
             taken_for_files=1 neither=1 zeros_of_files=2 zeros_metadata=1 zeros_neither=1"
        );
    }
}
