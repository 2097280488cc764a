//! The directories in which a benchmark measures: the file system below decides about the figures.

use std::path::Path;

use anyhow::Result;

use super::file_system::{Kind, Mounted};
use super::interrupt::Interrupt;
use super::report::Report;
use super::scratch::Scratch;

/// Measures in a directory called `name` that is made in `parent`, or, with `loops`, in new file
/// systems of these kinds there. What cannot be made is left out.
pub(super) fn on_each(
    (name, parent): (&str, Option<&Path>),
    loops: &[Kind],
    interrupt: &Interrupt,
    report: &mut Report,
    measure: impl Fn(&Path, &mut Report) -> Result<()>,
) -> Result<()> {
    let scratch = Scratch::make(name, parent)?;
    if loops.is_empty() {
        return measure(scratch.directory(), report);
    }
    for kind in loops {
        match Mounted::make(*kind, scratch.directory()) {
            Ok(mounted) => measure(mounted.directory(), report)?,
            Err(error) => {
                interrupt.check()?;
                report.leave_out(format!("{}: {error:#}", kind.name()));
            }
        }
    }
    Ok(())
}
