//! What the commands have in common that lend an image to other programs.

use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Result, bail};
use clap::Args;
use disk::Disk;

use super::identity::is_same_file;
use crate::cli::disk::DiskArgument;
use crate::statistics::{DiskCounts, StatisticsFile};

/// An image that is lent, and how.
#[derive(Args, Debug)]
pub(super) struct Loan {
    /// Refuse every change
    #[arg(long)]
    readonly: bool,

    /// Write what the disk has done to STATS at the end, as JSON
    #[arg(long, value_name = "STATS")]
    stats: Option<PathBuf>,

    /// The image, or a block device; with the options of --disk but serial=
    #[arg(value_name = "FILE[,readonly][,format=F][,order=MODE][,OPTION=VALUE]...")]
    pub(super) image: DiskArgument,
}

impl Loan {
    /// Opens the image, has `work` lend it, and closes it.
    pub(super) async fn lend(
        &self,
        work: impl AsyncFnOnce(Rc<dyn Disk>) -> Result<()>,
    ) -> Result<()> {
        if self.image.serial.is_some() {
            bail!("serial= is for guests, nobody else sees it");
        }
        let stats = self.statistics_file()?;
        let mut options = self.image.open_options();
        if self.readonly {
            options = options.read_only(true);
        }
        let disk = options.open().await?;
        let lent = work(Rc::clone(&disk)).await;
        let closed = disk.close().await;
        lent?;
        closed?;
        if let Some(file) = stats {
            file.write(&DiskCounts::from(&disk.statistics()))?;
        }
        Ok(())
    }

    fn statistics_file(&self) -> Result<Option<StatisticsFile<'_>>> {
        let Some(path) = self.stats.as_deref() else {
            return Ok(None);
        };
        if is_same_file(path, &self.image.path) {
            bail!(
                "{}: is the image itself, and no place for statistics",
                path.display()
            );
        }
        StatisticsFile::open(path).map(Some)
    }
}
