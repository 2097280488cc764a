//! Arguments that several commands have.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use disk::{Format, OpenOptions};

/// An image that is read, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct Source {
    /// Format of the image: raw, qcow2 or flat
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    pub(super) format: Option<Format>,

    /// Open an image that is in use, whose content may be changing
    #[arg(short = 'U', long)]
    pub(super) force_share: bool,

    /// The image
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
}

impl Source {
    /// How to open it for reading.
    pub(super) fn options(&self) -> OpenOptions {
        read_options(&self.file, self.format).share_all(self.force_share)
    }
}

/// How to open an image for reading.
pub(super) fn read_options(file: &Path, format: Option<Format>) -> OpenOptions {
    write_options(file, format).read_only(true)
}

/// How to open an image for reading and writing.
pub(super) fn write_options(file: &Path, format: Option<Format>) -> OpenOptions {
    let options = OpenOptions::new(file).recognize(true);
    match format {
        Some(format) => options.format(format),
        None => options,
    }
}

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Human,
    /// As JSON, with QEMU's names.
    Json,
}

/// Whether to show how far a long command has got.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ProgressArguments {
    /// Show progress even where standard error is not a terminal
    #[arg(short = 'p', long)]
    pub(super) progress: bool,

    /// Print nothing but errors
    #[arg(short = 'q', long, conflicts_with = "progress")]
    pub(super) quiet: bool,
}
