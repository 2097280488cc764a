//! `microvm control`: asks something of a machine that runs.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{PathBuf, absolute};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use disk::Format;

use super::protocol::{REPLY_BYTES_MAX, Reply, Request, receive, send};
use crate::insight::{Summary, plot, table};
use crate::output_file;

/// The arguments of `microvm control`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The socket that the machine was given: --control PATH
    #[arg(value_name = "PATH")]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep a disk as it is, and go on in a new image on top of it
    Snapshot {
        /// The disk: blk0 is that of the first --disk
        #[arg(value_name = "DISK")]
        disk: String,

        /// The new image, which must not be there yet
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// Format of the new image: qcow2 or flat
        #[arg(short = 'f', long = "format", value_name = "FMT", default_value_t = Format::Qcow2)]
        format: Format,
    },
    /// Look at the cache in front of a disk, or empty it
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Put hooks on the guest's system calls, take them away, or tell what they have seen
    #[command(subcommand)]
    Insight(InsightCommand),
}

#[derive(Debug, Subcommand)]
enum InsightCommand {
    /// Put hooks on the guest's system calls
    On,
    /// Take the hooks away; what they have seen is still known
    Off,
    /// Tell what the hooks have seen of the guest's file I/O since its last boot: disks by class of
    /// blocks, processes, files, how long files and blocks last, and working sets
    Report(ReportArguments),
}

/// The arguments of `insight report`.
#[derive(Args, Debug)]
struct ReportArguments {
    /// Print all of it as JSON, in place of tables
    #[arg(long)]
    json: bool,

    /// Draw it to an SVG file, in place of tables; with --json do both
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,

    /// How many processes and files the tables have, those with the most bytes
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Bring home what the disk lacks, and drop all that is cached
    Clear {
        /// The disk: blk0 is that of the first --disk
        #[arg(value_name = "DISK")]
        disk: String,
    },
    /// List the sectors that are cached: the first, how many, their class, and whether the disk
    /// lacks them
    List {
        /// The disk: blk0 is that of the first --disk
        #[arg(value_name = "DISK")]
        disk: String,
    },
}

impl Arguments {
    /// Asks, and waits until it is done.
    pub(crate) fn run(&self) -> Result<u8> {
        match &self.command {
            Command::Snapshot { disk, file, format } => {
                self.ask(&Request::Snapshot {
                    disk: disk.clone(),
                    // The machine may run elsewhere.
                    file: absolute(file).with_context(|| format!("{}", file.display()))?,
                    format: format.to_string(),
                })?;
            }
            Command::Cache(CacheCommand::Clear { disk }) => {
                let disk = disk.clone();
                self.ask(&Request::CacheClear { disk })?;
            }
            Command::Cache(CacheCommand::List { disk }) => self.list(disk)?,
            Command::Insight(InsightCommand::On) => {
                self.ask(&Request::Insight { on: true })?;
            }
            Command::Insight(InsightCommand::Off) => {
                self.ask(&Request::Insight { on: false })?;
            }
            Command::Insight(InsightCommand::Report(arguments)) => {
                let Reply::Report(summary) = self.ask(&Request::InsightReport)? else {
                    return self.misunderstood();
                };
                arguments.show(&summary)?;
            }
        }
        Ok(0)
    }

    fn ask(&self, request: &Request) -> Result<Reply> {
        let shown = self.socket.display();
        let stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("{shown}: no machine listens there"))?;
        send(&stream, request)?;
        let reply =
            receive(&stream, REPLY_BYTES_MAX).with_context(|| format!("{shown}: no reply"))?;
        match reply {
            Reply::Error(error) => bail!("{error}"),
            reply => Ok(reply),
        }
    }

    /// Prints what is cached, a line a range.
    fn list(&self, disk: &str) -> Result<()> {
        let mut offset = 0;
        loop {
            let disk = disk.to_owned();
            let Reply::Ranges(ranges) = self.ask(&Request::CacheList { disk, offset })? else {
                return self.misunderstood();
            };
            for range in &ranges {
                let (first, count) = (range.offset / 512, range.len / 512);
                let state = if range.dirty { "dirty" } else { "clean" };
                print(&format!("{first} {count} {state} {}\n", range.class))?;
            }
            let end = ranges
                .last()
                .and_then(|last| last.offset.checked_add(last.len));
            match end {
                Some(end) if end > offset => offset = end,
                _ => return Ok(()),
            }
        }
    }

    fn misunderstood<T>(&self) -> Result<T> {
        let shown = self.socket.display();
        bail!("{shown}: the reply is to another question")
    }
}

impl ReportArguments {
    /// Tells what was seen in the forms that are wanted.
    fn show(&self, summary: &Summary) -> Result<()> {
        if let Some(path) = &self.plot {
            let drawn = output_file::open(path).and_then(|mut file| {
                output_file::empty(&file)?;
                file.write_all(plot(summary).as_bytes())
            });
            drawn.with_context(|| format!("{}: cannot write the plot", path.display()))?;
        }
        match (self.json, &self.plot) {
            (true, _) => print(&(serde_json::to_string_pretty(summary)? + "\n")),
            (false, None) => print(&table(summary, self.top)),
            (false, Some(_)) => Ok(()),
        }
    }
}

fn print(text: &str) -> Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_takes_the_place_of_what_was_in_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plot.svg");
        std::fs::write(&path, "x".repeat(1 << 20)).unwrap();
        let arguments = ReportArguments {
            json: false,
            plot: Some(path.clone()),
            top: 20,
        };
        arguments.show(&Summary::default()).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
