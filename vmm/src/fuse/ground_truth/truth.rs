//! A disk that sees what blocks are by the marks in them, and what they were taken for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use disk::{BoxFuture, Buffers, Class, Disk, Error, Extent, Op, Properties, Request, Statistics};

/// What each unit of content begins with.
pub(super) const MARK: [u8; 16] = *b"\xffcontent of file";

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Data,
    Metadata,
    /// Zeros may be either.
    Zeros,
}

/// Units by what is done to them, what they are, and whether they are taken for metadata.
#[derive(Clone, Debug, Default)]
pub(super) struct Matrix {
    counts: BTreeMap<(bool, What, bool), u64>,
    wrong: Vec<String>,
}

/// Passes everything on, and counts.
pub(super) struct Truth<D> {
    disk: D,
    unit_bytes: usize,
    matrix: RefCell<Matrix>,
}

impl<D: Disk> Truth<D> {
    pub(super) fn new(disk: D, unit_bytes: usize) -> Self {
        Self {
            disk,
            unit_bytes,
            matrix: RefCell::default(),
        }
    }

    pub(super) fn matrix(&self) -> Matrix {
        self.matrix.borrow().clone()
    }

    fn count(&self, written: bool, offset: u64, class: Class, content: &Buffers) {
        let bytes = content.to_vec();
        let mut matrix = self.matrix.borrow_mut();
        for (number, unit) in (0..).zip(bytes.chunks(self.unit_bytes)) {
            let what = if unit.starts_with(&MARK) {
                What::Data
            } else if unit.iter().all(|byte| *byte == 0) {
                What::Zeros
            } else {
                What::Metadata
            };
            let is_metadata = class == Class::Metadata;
            *matrix
                .counts
                .entry((written, what, is_metadata))
                .or_default() += 1;
            if what != What::Zeros && is_metadata != (what == What::Metadata) {
                let offset = offset + number * self.unit_bytes as u64;
                let start: Vec<_> = unit.iter().take(48).map(|b| format!("{b:02x}")).collect();
                let action = if written { "written" } else { "read" };
                let start = start.concat();
                matrix
                    .wrong
                    .push(format!("{action} at {offset}: {what:?}: {start}"));
            }
        }
    }
}

impl Matrix {
    /// What went wrong, how often, and of how many. So many units may be read that nothing told before.
    pub(super) fn errors(&self, first_reads: u64) -> Vec<(String, u64, u64)> {
        let count = |key| self.counts.get(&key).copied().unwrap_or(0);
        let mut errors = Vec::new();
        for written in [true, false] {
            for (what, taken) in [(What::Data, true), (What::Metadata, false)] {
                let wrong = count((written, what, taken));
                let is_first = !written && what == What::Metadata;
                let wrong = wrong.saturating_sub(if is_first { first_reads } else { 0 });
                let action = if written { "written" } else { "read" };
                let name = format!("{action} {what:?} is taken for the other");
                errors.push((name, wrong, wrong + count((written, what, !taken))));
            }
        }
        errors
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for written in [true, false] {
            for what in [What::Data, What::Metadata, What::Zeros] {
                let count = |taken| self.counts.get(&(written, what, taken)).unwrap_or(&0);
                let action = if written { "written" } else { "read" };
                let (data, metadata) = (count(false), count(true));
                writeln!(
                    f,
                    "  {action:<8} {what:<9?} {data:>9} as data {metadata:>9} as metadata"
                )?;
            }
        }
        for line in self.wrong.iter().take(12) {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

impl<D: Disk> Disk for Truth<D> {
    fn properties(&self) -> Properties {
        self.disk.properties()
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let (offset, class) = (request.offset, request.class);
            let mut read = None;
            match &request.op {
                Op::Write(content) => self.count(true, offset, class, content),
                Op::Read(content) => read = Some(content.clone()),
                _ => {}
            }
            self.disk.submit(request).await?;
            if let Some(content) = read {
                self.count(false, offset, class, &content);
            }
            Ok(())
        })
    }

    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        self.disk.extent(offset, len)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.disk.close()
    }

    fn statistics(&self) -> Statistics {
        self.disk.statistics()
    }
}
