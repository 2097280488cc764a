//! `microvm image serve`: lends an image to NBD clients.

use std::fmt::Write as _;
use std::future::Future;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use disk::Listener;

use super::identity::is_same_file;
use crate::cli::disk::DiskArgument;
use crate::nbd::{Export, Server, SocketPath};
use crate::signals::Signals;
use crate::statistics::{DiskCounts, StatisticsFile};

/// The options of `serve`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Where to listen for NBD clients
    #[arg(long, value_name = "unix:PATH")]
    nbd: Address,

    /// What clients may call the export [default: the empty name]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    export: String,

    /// Refuse every change
    #[arg(long)]
    readonly: bool,

    /// Write what the disk has done to STATS at the end, as JSON
    #[arg(long, value_name = "STATS")]
    stats: Option<PathBuf>,

    /// The image, or a block device; with the options of --disk but serial=
    #[arg(value_name = "FILE[,readonly][,format=F][,order=MODE][,OPTION=VALUE]...")]
    image: DiskArgument,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address(PathBuf);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self(path.into())),
            _ => Err("write unix:PATH"),
        }
    }
}

/// Serves the image until a signal says that it is enough, and closes it.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        nbd, export, image, ..
    } = arguments;
    if image.serial.is_some() {
        bail!("serial= is for guests, NBD clients do not see it");
    }
    if !Export::is_name(export) {
        bail!("an export's name has at most 4096 bytes");
    }
    let stats = arguments.stats.as_deref();
    if let Some(path) = stats.filter(|path| is_same_file(path, &image.path)) {
        bail!(
            "{}: is the image itself, and no place for statistics",
            path.display()
        );
    }
    let stats = stats.map(StatisticsFile::open).transpose()?;
    let signals = Signals::install()?;
    let end = end(signals.end.as_fd().try_clone_to_owned()?);
    let mut options = image.open_options();
    if arguments.readonly {
        options = options.read_only(true);
    }
    let disk = options.open().await?;
    let served = serve(nbd, Export::new(export, disk.clone()), end).await;
    let closed = disk.close().await;
    served?;
    closed?;
    if let Some(file) = stats {
        file.write(&DiskCounts::from(&disk.statistics()))?;
    }
    Ok(())
}

async fn serve(address: &Address, export: Export, end: impl Future<Output = ()>) -> Result<()> {
    let uri = uri(address, &export);
    let (listener, _name) = SocketPath::listen(&address.0)?;
    let listener = Listener::new(listener).context("cannot listen")?;
    // Whoever does not read it can see the socket.
    let _ = writeln!(std::io::stdout(), "serving {uri}");
    Server::new(export).run(&listener, end).await;
    Ok(())
}

/// Ends with the first signal.
async fn end(signals: OwnedFd) {
    if let Err(error) = disk::readable(Arc::new(signals)).await {
        tracing::warn!(%error, "cannot wait for signals");
    }
}

/// How clients call the export, as in `doc/uri.md` of the NBD project.
fn uri(address: &Address, export: &Export) -> String {
    let name = percent_encoded(export.name().as_bytes());
    let path = std::path::absolute(&address.0).unwrap_or_else(|_| address.0.clone());
    let path = percent_encoded(path.as_os_str().as_bytes());
    format!("nbd+unix:///{name}?socket={path}")
}

/// Leaves what means itself everywhere in a URI (RFC 3986 section 2.3), and slashes.
fn percent_encoded(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unix_sockets_are_addresses() {
        assert_eq!("unix:/a".parse(), Ok(Address("/a".into())));
        for text in ["/a", "unix:", "tcp:localhost:10809", ""] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn uris_hold_any_name() {
        assert_eq!(percent_encoded(b"a b/c?%\xff"), "a%20b/c%3F%25%FF");
    }
}
