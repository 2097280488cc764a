//! `microvm image mount`: shows an image as a raw file.

use std::io::{self, Write as _};
use std::iter;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use disk::{Disk, is_remote};

use super::background;
use crate::cli::disk::DiskArgument;
use crate::fuse::{
    self, FILE_NAME, Kind, Mount, MountOptions, MountPoint, RawFile, Session, Volume,
};
use crate::signals::{SignalPipe, Signals};
use crate::statistics::{DiskCounts, StatisticsFile};

/// The options of `mount`.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Refuse every change
    #[arg(long)]
    readonly: bool,

    /// Write what the disk has done to STATS at the end, as JSON
    #[arg(long, value_name = "STATS")]
    stats: Option<PathBuf>,

    /// The image, or a block device; with the options of --disk but serial=
    #[arg(value_name = "FILE[,readonly][,format=F][,order=MODE][,OPTION=VALUE]...")]
    image: DiskArgument,

    /// Where to show it: a file, which becomes the disk, or an empty directory, in which it is
    /// disk.raw
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,

    /// Let other users use it too, root among them, as far as the image's permissions do
    #[arg(long)]
    allow_other: bool,

    /// Go to the background once it is mounted
    #[arg(long)]
    background: bool,

    /// What --background starts
    #[arg(long, hide = true)]
    detached: bool,
}

/// Shows the image until it is unmounted or a signal says that it is enough, and closes it.
/// Returns the exit status.
pub(super) async fn run(arguments: &Arguments) -> Result<u8> {
    if arguments.background && !arguments.detached {
        return background::start();
    }
    let mut signals = Signals::install()?;
    let point = MountPoint::find(&arguments.mount_point)?;
    let show = async |disk| show(arguments, disk, &point, &mut signals.end).await;
    arguments.lend(show).await.map(|()| 0)
}

impl Arguments {
    /// Opens the image, has `work` lend it, and closes it.
    async fn lend(&self, work: impl AsyncFnOnce(Rc<dyn Disk>) -> Result<()>) -> Result<()> {
        if self.image.serial.is_some() {
            bail!("serial= is for guests, nobody else sees it");
        }
        if is_remote(&self.image.path) {
            let image = self.image.path.display();
            bail!(
                "{image}: is far away, and has no owner and no permissions here; make an image that \
                 stands on it (image create -b), and mount that"
            );
        }
        let stats = match self.stats.as_deref() {
            Some(path) => Some(StatisticsFile::open(path, iter::once(&self.image)).await?),
            None => None,
        };
        let mut options = self.image.open_options();
        if self.readonly {
            options = options.read_only(true);
        }
        let open = async || options.open().await;
        let (disk, _) = self.image.open_behind_cache(open).await?;
        let disk = self.image.tell_metadata(disk);
        let lent = work(Rc::clone(&disk)).await;
        let closed = disk.close().await;
        lent?;
        closed?;
        if let Some(file) = stats {
            file.write(&DiskCounts::from(&disk.statistics()))?;
        }
        Ok(())
    }
}

async fn show(
    arguments: &Arguments,
    disk: Rc<dyn Disk>,
    point: &MountPoint,
    signals: &mut SignalPipe,
) -> Result<()> {
    let image = &arguments.image.path;
    let options = MountOptions {
        source: std::path::absolute(image).unwrap_or_else(|_| image.clone()),
        read_only: disk.properties().read_only,
        allow_other: arguments.allow_other,
    };
    let file = RawFile::new(image, disk).with_context(|| image.display().to_string())?;
    let (descriptor, mount) = Mount::new(point, &options)?;
    let mount = Arc::new(mount);
    match begin(
        descriptor,
        Volume::new(file, point.kind()),
        arguments,
        point,
    )
    .await
    {
        Ok(session) => fuse::serve(&session, &mount, signals).await?,
        Err(error) => {
            // Or whoever finds it would wait for nobody.
            let _ = mount.unmount();
            return Err(error);
        }
    }
    mount
        .remove_dead()
        .with_context(|| format!("{}: cannot unmount", point.path().display()))
}

/// Comes to an agreement with the kernel, and tells that the file can be used.
async fn begin(
    descriptor: OwnedFd,
    volume: Volume,
    arguments: &Arguments,
    point: &MountPoint,
) -> Result<Rc<Session>> {
    let session = Session::new(descriptor, volume).context("cannot use /dev/fuse")?;
    session.negotiate().await?;
    let file = match point.kind() {
        Kind::File => point.path().to_owned(),
        Kind::Directory => point.path().join(FILE_NAME),
    };
    let announce = || {
        // Whoever does not read it can see the file.
        let _ = writeln!(io::stdout(), "mounted as {}", file.display());
    };
    if arguments.detached {
        background::detach(announce)?;
    } else {
        announce();
    }
    Ok(session)
}
