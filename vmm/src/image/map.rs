//! `image map`: which parts of an image hold data, and where.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use disk::{Chain, Content};
use serde::Serialize;

use super::arguments::{Output, Source};
use super::walk::{Piece, Walk};
use crate::cli::size::parse_size;
use crate::human;

/// The arguments of `image map`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,

    /// Where to begin
    #[arg(long, value_name = "OFFSET", default_value_t = 0, value_parser = parse_size)]
    start_offset: u64,

    /// How far to go [default: to the end]
    #[arg(long, value_name = "LEN", value_parser = parse_size)]
    max_length: Option<u64>,

    /// What to print
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    output: Output,
}

/// QEMU's `MapEntry` (`qapi/block-core.json`).
#[expect(clippy::struct_excessive_bools, reason = "they are QEMU's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Entry {
    start: u64,
    length: u64,
    depth: u32,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl Entry {
    /// The two as one, if `next` only goes on with this.
    fn join(self, next: Self) -> Option<Self> {
        let follows = Self {
            start: next.start,
            length: next.length,
            offset: self.offset.map(|offset| offset + self.length),
            ..self
        };
        (follows == next).then_some(Self {
            length: self.length + next.length,
            ..self
        })
    }
}

impl From<Piece> for Entry {
    fn from(Piece { offset, extent }: Piece) -> Self {
        Self {
            start: offset,
            length: extent.len,
            depth: extent.depth,
            present: extent.content != Content::Absent,
            zero: extent.content.is_zero(),
            data: !extent.content.is_zero(),
            compressed: extent.content == Content::Compressed,
            offset: extent.host_offset,
        }
    }
}

/// Prints the map.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let chain = arguments.source.options().chain().await?;
    let mut printer = Printer::new(arguments.output, data_files(&chain)?);
    let disk = chain.into_disk().await?;
    let size = disk.properties().size_bytes;
    let start = arguments.start_offset.min(size);
    let end = arguments
        .max_length
        .map_or(size, |len| size.min(start.saturating_add(len)));
    let mut walk = Walk::new(&*disk, start..end);
    let mut last: Option<Entry> = None;
    while let Some(piece) = walk.peek().await? {
        walk.take(piece.extent.len);
        let entry = Entry::from(piece);
        let joined = last.and_then(|last| last.join(entry));
        if let (Some(last), None) = (&last, joined) {
            printer.entry(last)?;
        }
        last = joined.or(Some(entry));
    }
    if let Some(last) = &last {
        printer.entry(last)?;
    }
    printer.end()?;
    Ok(disk.close().await?)
}

/// Prints entries one by one: a map may be long.
struct Printer {
    output: Output,
    /// The files of the chain, as the depth of an entry counts them.
    files: Vec<PathBuf>,
    started: bool,
}

impl Printer {
    fn new(output: Output, files: Vec<PathBuf>) -> Self {
        Self {
            output,
            files,
            started: false,
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        let first = !std::mem::replace(&mut self.started, true);
        match self.output {
            Output::Json => {
                let before = if first { "[" } else { ",\n" };
                super::print(&format!("{before}{}", serde_json::to_string(entry)?))
            }
            Output::Human => {
                let heads = format!("{:<16}{:<16}{:<16}File\n", "Offset", "Length", "Mapped to");
                let before = if first { heads.as_str() } else { "" };
                super::print(&format!("{before}{}", self.line(entry)?))
            }
        }
    }

    /// What a file holds as it is; zeros are left out, and what is compressed cannot be said.
    fn line(&self, entry: &Entry) -> Result<String> {
        if !entry.data || entry.zero {
            return Ok(String::new());
        }
        let Some(offset) = entry.offset else {
            bail!(
                "the image has compressed clusters, which lie nowhere as they read; give --output json"
            );
        };
        let file = self.files.get(usize::try_from(entry.depth)?);
        let file = file.map_or_else(String::new, |file| file.display().to_string());
        let [start, length, offset] = [entry.start, entry.length, offset].map(hexadecimal);
        Ok(format!(
            "{start:<16}{length:<16}{offset:<16}{}\n",
            human::printable(&file)
        ))
    }

    fn end(&mut self) -> Result<()> {
        match self.output {
            Output::Json if self.started => super::print("]\n"),
            Output::Json => super::print("[]\n"),
            Output::Human => Ok(()),
        }
    }
}

/// As C prints a number by `%#x`.
fn hexadecimal(number: u64) -> String {
    match number {
        0 => "0".to_owned(),
        _ => format!("{number:#x}"),
    }
}

/// The file that holds the data of each layer.
fn data_files(chain: &Chain) -> Result<Vec<PathBuf>> {
    let files = chain.layers().iter().map(|layer| {
        let data = layer.data_path()?;
        Ok(data.unwrap_or_else(|| layer.path.clone()))
    });
    files.collect()
}
