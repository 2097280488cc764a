//! A description as `qemu-img info` prints it.

use std::fmt::Display;

use super::super::snapshot_table::snapshot_table;
use super::describe::{Bitmap, Description, Qcow2Description, SpecificData};
use super::flat::FlatDescription;
use crate::human;

/// The lines on one image.
pub(super) fn text(image: &Description) -> String {
    let (size, bytes) = (human::size(image.virtual_size), image.virtual_size);
    let mut lines = vec![
        format!("image: {}", image.filename),
        format!("file format: {}", image.format),
        format!("virtual size: {size} ({bytes} bytes)"),
    ];
    if let Some(bytes) = image.actual_size {
        lines.push(format!("disk size: {}", human::size(bytes)));
    }
    if let Some(bytes) = image.preallocated_size {
        lines.push(format!("preallocated: {bytes} bytes"));
    }
    if image.dirty_flag {
        lines.push("cleanly shut down: no".to_owned());
    }
    // Between what an image stands on and what only its format has.
    let snapshots = match image.snapshots.as_slice() {
        [] => Vec::new(),
        snapshots => snapshot_table(snapshots),
    };
    if let Some(qcow2) = &image.qcow2 {
        lines.extend(qcow2_lines(qcow2, snapshots));
    } else if let Some(flat) = &image.flat {
        lines.extend(flat_lines(flat, snapshots));
    }
    if let Some(journal) = &image.journal {
        lines.extend(journal.lines());
    }
    // Names come from the image, and this may go to a terminal.
    let lines = lines.iter().map(|line| human::printable(line) + "\n");
    lines.collect()
}

fn qcow2_lines(qcow2: &Qcow2Description, snapshots: Vec<String>) -> Vec<String> {
    let mut lines = vec![format!("cluster_size: {}", qcow2.cluster_size)];
    lines.extend(qcow2.backing.lines());
    lines.extend(snapshots);
    lines.push("Format specific information:".to_owned());
    let specific = specific_lines(&qcow2.format_specific.data);
    lines.extend(specific.iter().map(|line| format!("    {line}")));
    lines
}

fn flat_lines(flat: &FlatDescription, snapshots: Vec<String>) -> Vec<String> {
    let mut lines: Vec<_> = flat.backing.lines().collect();
    lines.extend(snapshots);
    lines.push("Format specific information:".to_owned());
    lines.extend(flat.lines().iter().map(|line| format!("    {line}")));
    lines
}

fn specific_lines(data: &SpecificData) -> Vec<String> {
    let before = [
        line("compat", Some(data.compat)),
        line("compression type", Some(data.compression_type)),
        line("lazy refcounts", data.lazy_refcounts),
    ];
    let after = [
        line("refcount bits", Some(data.refcount_bits)),
        line("data file", data.data_file.as_ref()),
        line("data file raw", data.data_file_raw),
        line("corrupt", data.corrupt),
        line("extended l2", data.extended_l2),
    ];
    let bitmaps = bitmaps_lines(&data.bitmaps);
    let before = before.into_iter().flatten();
    before
        .chain(bitmaps)
        .chain(after.into_iter().flatten())
        .collect()
}

/// A line, if there is something to say.
fn line(name: &str, value: Option<impl Display>) -> Option<String> {
    value.map(|value| format!("{name}: {value}"))
}

fn bitmaps_lines(bitmaps: &[Bitmap]) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, bitmap) in bitmaps.iter().enumerate() {
        lines.push(format!("    [{number}]:"));
        lines.push("        flags:".to_owned());
        for (number, flag) in bitmap.flags.iter().enumerate() {
            lines.push(format!("            [{number}]: {flag}"));
        }
        lines.push(format!("        name: {}", bitmap.name));
        lines.push(format!("        granularity: {}", bitmap.granularity));
    }
    if !lines.is_empty() {
        lines.insert(0, "bitmaps:".to_owned());
    }
    lines
}
