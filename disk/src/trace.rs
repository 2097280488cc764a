//! A trace: what a guest reads of a disk, in the order in which it first does. That of a boot says
//! what the next one will want. docs/trace.md has each byte.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use crate::Error;
use crate::request::SECTOR_BYTES;

/// What every trace begins with, of whatever version.
pub(crate) const MAGIC: &[u8; 14] = b"microvm trace ";
/// What one of this version begins with.
const HEAD: &str = "microvm trace 1\n";
/// The most ranges of a trace: more are not of a boot.
pub(crate) const RANGES_MAX: usize = 1 << 16;
/// The longest file that can be a trace: two numbers of at most 20 digits a range.
pub(crate) const FILE_BYTES_MAX: u64 = HEAD.len() as u64 + RANGES_MAX as u64 * 42;

/// Ranges of a disk, in bytes, in the order in which they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    ranges: Vec<Range<u64>>,
}

impl Trace {
    /// Reads the trace in the file at `path`.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = read_bounded(path).map_err(Error::io(path, "read the trace"))?;
        Self::parse(&text).map_err(|(offset, problem)| Error::Damaged {
            path: path.to_owned(),
            offset,
            problem,
        })
    }

    /// The ranges, none of them empty.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// How much they are together, in bytes.
    pub fn bytes(&self) -> u64 {
        let lengths = self.ranges.iter().map(|range| range.end - range.start);
        lengths.fold(0, u64::saturating_add)
    }

    /// Whether there is no room for another range.
    pub(crate) fn is_full(&self) -> bool {
        self.ranges.len() >= RANGES_MAX
    }

    /// Adds what was read after all others. It goes on where the last one ends, or is a range of
    /// its own.
    pub(crate) fn push(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }

    /// What is wrong, and at which byte, if this is no trace.
    fn parse(text: &[u8]) -> Result<Self, (u64, String)> {
        let rest = text.strip_prefix(HEAD.as_bytes());
        let rest = rest.ok_or_else(|| (0, "is not a trace of microvm".to_owned()))?;
        let mut trace = Self::default();
        let mut at = HEAD.len();
        for line in rest.split_inclusive(|&byte| byte == b'\n') {
            let range = range(line).map_err(|problem| (at as u64, problem.to_owned()))?;
            trace.ranges.push(range);
            if trace.ranges.len() > RANGES_MAX {
                return Err((at as u64, format!("it has more than {RANGES_MAX} ranges")));
            }
            at += line.len();
        }
        Ok(trace)
    }
}

/// As it is in a file.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for range in &self.ranges {
            writeln!(f, "{} {}", range.start, range.end - range.start)?;
        }
        Ok(())
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;

    let mut text = Vec::new();
    let file = std::fs::File::open(path)?;
    // What is longer has too many lines, or one that is too long.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// The range of a line.
fn range(line: &[u8]) -> Result<Range<u64>, &'static str> {
    let text = std::str::from_utf8(line).unwrap_or_default();
    let (offset, len) = text
        .strip_suffix('\n')
        .and_then(|text| text.split_once(' '))
        .ok_or("a line is not an offset and a length")?;
    let number = |text: &str| {
        let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
        let number: Option<u64> = text.parse().ok().filter(|_| is_decimal);
        number.filter(|number| number.is_multiple_of(SECTOR_BYTES))
    };
    let (offset, len) = number(offset)
        .zip(number(len))
        .ok_or("an offset or a length is not a multiple of 512")?;
    let end = offset.checked_add(len).filter(|_| len > 0);
    end.map(|end| offset..end)
        .ok_or("a range is empty or goes too far")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_come_back_from_their_text() {
        let mut trace = Trace::default();
        for range in [4096..8192, 8192..12288, 0..512, 1 << 60..(1 << 60) + 512] {
            trace.push(range);
        }
        assert_eq!(trace.ranges().len(), 3);
        assert_eq!(trace.bytes(), 8192 + 1024);
        let text = trace.to_string();
        assert!(text.starts_with("microvm trace 1\n4096 8192\n0 512\n"));
        assert_eq!(Trace::parse(text.as_bytes()), Ok(trace));
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let at = HEAD.len() as u64;
        for (text, offset, problem) in [
            ("", 0, "is not a trace"),
            ("microvm trace 2\n", 0, "is not a trace"),
            ("microvm trace 1\n0 512", at, "not an offset"),
            ("microvm trace 1\n0 512\n512\n", at + 6, "not an offset"),
            ("microvm trace 1\n0 +512\n", at, "not a multiple"),
            ("microvm trace 1\n1 512\n", at, "not a multiple"),
            ("microvm trace 1\n0 0\n", at, "empty"),
            ("microvm trace 1\n18446744073709551104 512\n", at, "too far"),
            ("microvm trace 1\n\u{e9} 512\n", at, "not a multiple"),
        ] {
            let (found, said) = Trace::parse(text.as_bytes()).unwrap_err();
            assert!(
                found == offset && said.contains(problem),
                "{text:?}: {said}"
            );
        }
        let many = format!("{HEAD}{}", "0 512\n".repeat(RANGES_MAX + 1));
        let (_, said) = Trace::parse(many.as_bytes()).unwrap_err();
        assert!(said.contains("more than"), "{said}");
    }
}
