//! `microvm control`: asks something of a machine that runs.

use std::os::unix::net::UnixStream;
use std::path::{PathBuf, absolute};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
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
}

impl Arguments {
    /// Asks, and waits until it is done.
    pub(crate) fn run(&self) -> Result<u8> {
        let Command::Snapshot { disk, file, format } = &self.command;
        let request = Request::Snapshot {
            disk: disk.clone(),
            // The machine may run elsewhere.
            file: absolute(file).with_context(|| format!("{}", file.display()))?,
            format: format.to_string(),
        };
        let shown = self.socket.display();
        let stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("{shown}: no machine listens there"))?;
        send(&stream, &request)?;
        let reply = receive(&stream).with_context(|| format!("{shown}: no reply"))?;
        match reply {
            Reply::Done => Ok(0),
            Reply::Error(error) => bail!("{error}"),
        }
    }
}
