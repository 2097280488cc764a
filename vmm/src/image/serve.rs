//! `microvm image serve`: lends images to NBD clients.

mod lent;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Result, bail};
use clap::Args;
use disk::{Disk, OpenOptions};
use serde::Serialize;

use super::interrupt::Interrupt;
use crate::nbd::{Address, Certificates, Endpoint, Export, Server};
use crate::signals::Signals;
use crate::statistics::{DiskCounts, StatisticsFile};
use lent::Lent;

/// The options of `serve`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Where to listen for NBD clients; without an address, only this host reaches the port
    #[arg(long, value_name = "unix:PATH|tcp:[ADDRESS:]PORT", required = true)]
    nbd: Vec<Address>,

    /// What clients may call the first export [default: the empty name]
    #[arg(long, value_name = "NAME")]
    export: Option<String>,

    /// Lend an internal snapshot of the only FILE, which nobody can change
    #[arg(long, value_name = "ID|NAME")]
    snapshot: Option<String>,

    /// Refuse every change
    #[arg(long)]
    readonly: bool,

    /// Let clients in by way of TLS only, with the server-cert.pem and server-key.pem of DIR
    #[arg(long, value_name = "DIR")]
    tls_certificates: Option<PathBuf>,

    /// Let clients in only whose certificate is signed by the ca-cert.pem of DIR
    #[arg(long, requires = "tls_certificates")]
    tls_verify_peer: bool,

    /// Let other hosts change an image without TLS
    #[arg(long)]
    allow_plain_writes: bool,

    /// Write what the disk has done to STATS at the end, as JSON
    #[arg(long, value_name = "STATS")]
    stats: Option<PathBuf>,

    /// An image, or a block device; with the options of --disk but serial=
    #[arg(
        value_name = "FILE[,export=NAME][,snapshot=NAME][,readonly][,format=F][,order=MODE][,OPTION=VALUE]...",
        required = true
    )]
    files: Vec<Lent>,
}

/// Serves the images until a signal says that it is enough, and closes them.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let names = lent::names(&arguments.files, arguments.export.as_deref())?;
    arguments.check()?;
    let certificates = match &arguments.tls_certificates {
        Some(directory) => Some(Certificates::load(directory, arguments.tls_verify_peer)?),
        None => None,
    };
    let stats = arguments.statistics_file().await?;
    // A second signal ends the program at once, whatever it waits for.
    let _second = Interrupt::install()?;
    let mut signals = Signals::install()?;
    let endpoints: Result<Vec<_>> = arguments.nbd.iter().map(Endpoint::listen).collect();
    let endpoints = endpoints?;
    let disks = arguments.open().await?;
    let export = |(name, disk): (&String, &Rc<dyn Disk>)| Export::new(name, Rc::clone(disk));
    let exports = names.iter().zip(&disks).map(export).collect();
    let end = async {
        signals.end.next().await;
        for disk in &disks {
            disk.give_up();
        }
    };
    serve(endpoints, exports, certificates, end).await;
    close(&disks).await?;
    if let Some(file) = stats {
        let counts = disks.iter().map(|disk| (&disk.statistics()).into());
        write_statistics(&file, names, counts)?;
    }
    Ok(())
}

/// Nobody listens any more when it is over.
async fn serve(
    endpoints: Vec<Endpoint>,
    exports: Vec<Export>,
    certificates: Option<Certificates>,
    end: impl Future<Output = ()>,
) {
    let mut lines = String::new();
    for endpoint in &endpoints {
        for export in &exports {
            let uri = endpoint.uri(export, certificates.is_some());
            lines.extend(["serving ", &uri, "\n"]);
        }
    }
    // Whoever does not read it can see the socket.
    let _ = std::io::stdout().write_all(lines.as_bytes());
    Server::new(exports, certificates)
        .run(&endpoints, end)
        .await;
}

/// Closes all, whatever becomes of one.
async fn close(disks: &[Rc<dyn Disk>]) -> Result<()> {
    let mut closed = Ok(());
    for disk in disks {
        closed = closed.and(disk.close().await);
    }
    Ok(closed?)
}

/// Writes what the one disk did, or what each did, by the names of the exports.
fn write_statistics(
    file: &StatisticsFile<'_>,
    names: Vec<String>,
    mut counts: impl ExactSizeIterator<Item = DiskCounts>,
) -> Result<()> {
    #[derive(Serialize)]
    struct All {
        exports: BTreeMap<String, DiskCounts>,
    }
    if counts.len() > 1 {
        let exports = names.into_iter().zip(counts).collect();
        return file.write(&All { exports });
    }
    file.write(&counts.next().unwrap_or_default())
}

impl Arguments {
    /// Refuses what contradicts itself, or is a danger.
    fn check(&self) -> Result<()> {
        if self.snapshot.is_some() && self.files.len() > 1 {
            bail!("--snapshot: there are several files; write FILE,snapshot=NAME of one of them");
        }
        if self.snapshot.is_some() && self.files.iter().any(|lent| lent.disk.snapshot.is_some()) {
            bail!("--snapshot: the file has a snapshot= already");
        }
        if self.snapshot.is_some() && self.files.iter().any(|lent| lent.disk.cache.is_some()) {
            bail!("--snapshot: write FILE,snapshot=NAME where there is a cache=");
        }
        if !self.readonly {
            lent::check_writers(&self.files)?;
        }
        self.check_exposure()
    }

    /// Refuses to let everybody change what is lent.
    fn check_exposure(&self) -> Result<()> {
        let is_writable =
            !self.readonly && self.snapshot.is_none() && self.files.iter().any(Lent::is_writable);
        if !is_writable || self.tls_certificates.is_some() || self.allow_plain_writes {
            return Ok(());
        }
        if let Some(address) = self.nbd.iter().find(|address| address.is_exposed()) {
            bail!(
                "{address}: whoever reaches it could change the image, and see what others read and \
                 write; give --tls-certificates DIR, or --readonly, or --allow-plain-writes where \
                 the network is trusted"
            );
        }
        Ok(())
    }

    async fn statistics_file(&self) -> Result<Option<StatisticsFile<'_>>> {
        let Some(path) = self.stats.as_deref() else {
            return Ok(None);
        };
        let images = self.files.iter().map(|lent| &lent.disk);
        StatisticsFile::open(path, images).await.map(Some)
    }

    /// Opens all, or none.
    async fn open(&self) -> Result<Vec<Rc<dyn Disk>>> {
        let mut disks = Vec::new();
        for lent in &self.files {
            let open = async || self.options(lent).open().await;
            match lent.disk.open_behind_cache(open).await {
                Ok((disk, _)) => disks.push(lent.disk.tell_metadata(disk)),
                Err(error) => {
                    // Nobody has written anything yet: there is nothing to lose.
                    let _ = close(&disks).await;
                    return Err(error.into());
                }
            }
        }
        Ok(disks)
    }

    fn options(&self, lent: &Lent) -> OpenOptions {
        let mut options = lent.disk.open_options();
        if let Some(id_or_name) = &self.snapshot {
            options = options.snapshot(id_or_name);
        }
        if self.readonly {
            options = options.read_only(true);
        }
        options
    }
}
