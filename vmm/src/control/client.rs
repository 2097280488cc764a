//! `microvm control`: asks something of a machine that runs.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{PathBuf, absolute};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use disk::Format;

use super::protocol::{Reply, Request, receive, send};

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
    /// Put hooks on the guest's system calls, or take them away
    Insight {
        /// Whether they shall be there
        #[arg(value_enum)]
        state: State,
    },
}

/// Of what can be switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    On,
    Off,
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
            Command::Insight { state } => {
                let on = *state == State::On;
                self.ask(&Request::Insight { on })?;
            }
        }
        Ok(0)
    }

    fn ask(&self, request: &Request) -> Result<Reply> {
        let shown = self.socket.display();
        let stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("{shown}: no machine listens there"))?;
        send(&stream, request)?;
        let reply = receive(&stream).with_context(|| format!("{shown}: no reply"))?;
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
                bail!(
                    "{}: the reply is to another question",
                    self.socket.display()
                );
            };
            for range in &ranges {
                let (first, count) = (range.offset / 512, range.len / 512);
                let state = if range.dirty { "dirty" } else { "clean" };
                writeln!(io::stdout(), "{first} {count} {state} {}", range.class)
                    .context("cannot print")?;
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
}
