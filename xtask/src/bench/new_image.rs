//! New images, made by the program that knows their format.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use images::packages::Tool;

use super::contender::Format;
use super::file_system::succeed;
use super::nbd::Programs;

/// Makes an image without content at `path`, on top of a raw one if that is given.
pub(super) fn create(
    programs: &Programs,
    format: Format,
    path: &Path,
    size_bytes: u64,
    base: Option<&Path>,
) -> Result<()> {
    let mut create = maker(programs, format, "create");
    create.args(["-f", format.name()]);
    if let Some(base) = base {
        create.args(["-F", "raw", "-b"]).arg(base);
    }
    succeed(create.arg(path).arg(size_bytes.to_string())).map(drop)
}

/// Makes an image at `path` that holds what a raw one does.
pub(super) fn convert(
    programs: &Programs,
    format: Format,
    path: &Path,
    source: &Path,
) -> Result<()> {
    let mut convert = maker(programs, format, "convert");
    convert.args(["-f", "raw", "-O", format.name()]);
    succeed(convert.args([source, path])).map(drop)
}

fn maker(programs: &Programs, format: Format, verb: &str) -> Command {
    let mut command = match format {
        Format::Flat | Format::FlatCompact => {
            let mut ours = Command::new(&programs.ours);
            ours.arg("image");
            ours
        }
        Format::Qcow2 { .. } | Format::Raw | Format::RawFilled => {
            Command::new(Tool::QemuImg.command())
        }
    };
    command.arg(verb);
    match format {
        Format::Qcow2 {
            lazy_refcounts: true,
        } => drop(command.args(["-o", "lazy_refcounts=on"])),
        Format::FlatCompact => drop(command.args(["-o", "compact=on"])),
        Format::Qcow2 { .. } | Format::Raw | Format::RawFilled | Format::Flat => {}
    }
    command
}
