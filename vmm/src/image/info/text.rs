//! A description as `qemu-img info` prints it.

use super::super::human;
use super::super::snapshot_table::snapshot_table;
use super::describe::{Bitmap, Description, Qcow2Description, SpecificData};

/// The lines on one image.
pub(super) fn text(image: &Description) -> String {
    let (size, bytes) = (human::size(image.virtual_size), image.virtual_size);
    let mut text = format!(
        "image: {}\nfile format: {}\nvirtual size: {size} ({bytes} bytes)\ndisk size: {}\n",
        human::printable(&image.filename),
        image.format,
        human::size(image.actual_size),
    );
    if image.dirty_flag {
        text += "cleanly shut down: no\n";
    }
    if let Some(qcow2) = &image.qcow2 {
        text += &qcow2_text(qcow2);
    }
    text
}

fn qcow2_text(qcow2: &Qcow2Description) -> String {
    let mut text = format!("cluster_size: {}\n", qcow2.cluster_size);
    if let Some(name) = &qcow2.backing_filename {
        let found = match &qcow2.full_backing_filename {
            Some(path) if path != name => format!(" (actual path: {path})"),
            _ => String::new(),
        };
        text += &human::printable(&format!("backing file: {name}{found}\n"));
    }
    if let Some(format) = &qcow2.backing_filename_format {
        text += &human::printable(&format!("backing file format: {format}\n"));
    }
    if !qcow2.snapshots.is_empty() {
        text += &snapshot_table(&qcow2.snapshots);
    }
    text + "Format specific information:\n" + &specific_text(&qcow2.format_specific.data)
}

/// What lies between a name and its value: nothing where the value has its own lines.
fn separator(value: &str) -> &'static str {
    if value.starts_with('\n') { "" } else { " " }
}

fn bitmaps_text(bitmaps: &[Bitmap]) -> Option<String> {
    let mut text = String::new();
    for (number, bitmap) in bitmaps.iter().enumerate() {
        text += &format!("\n        [{number}]:\n            flags:");
        for (number, flag) in bitmap.flags.iter().enumerate() {
            text += &format!("\n                [{number}]: {flag}");
        }
        let Bitmap {
            name, granularity, ..
        } = bitmap;
        text += &format!("\n            name: {name}\n            granularity: {granularity}");
    }
    (!text.is_empty()).then_some(text)
}

fn specific_text(data: &SpecificData) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // Names come from the image, and this may go to a terminal.
            text += &format!(
                "    {name}:{}{}\n",
                separator(&value),
                human::printable(&value)
            );
        }
    };
    let yes = |value: Option<bool>| value.map(|value| value.to_string());
    line("compat", Some(data.compat.to_owned()));
    line("compression type", Some(data.compression_type.to_owned()));
    line("lazy refcounts", yes(data.lazy_refcounts));
    line("bitmaps", bitmaps_text(&data.bitmaps));
    line("refcount bits", Some(data.refcount_bits.to_string()));
    line("data file", data.data_file.clone());
    line("data file raw", yes(data.data_file_raw));
    line("corrupt", yes(data.corrupt));
    line("extended l2", yes(data.extended_l2));
    text
}
