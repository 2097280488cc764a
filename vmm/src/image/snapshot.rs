//! `image snapshot`: the snapshots in a qcow2 or a compact flat image.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use disk::flat::{self, Flat};
use disk::qcow2::{NewSnapshot, Qcow2};
use disk::{Disk as _, FileStorage, Format, Storage as _};

use super::arguments::{read_options, write_options};
use super::info::Snapshot;
use super::snapshot_table::snapshot_table;
use crate::human;

/// The arguments of `image snapshot`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    action: Action,

    /// Format of the image: qcow2 or flat
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    format: Option<Format>,

    /// List the snapshots of an image that is in use
    #[arg(short = 'U', long, conflicts_with_all = ["create", "apply", "delete"])]
    force_share: bool,

    /// The image
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What to do; without any, to list.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct Action {
    /// List the snapshots (the default)
    #[arg(short = 'l', long)]
    list: bool,

    /// Take a snapshot
    #[arg(short = 'c', long, value_name = "NAME")]
    create: Option<String>,

    /// Make the disk what it was at a snapshot
    #[arg(short = 'a', long, value_name = "ID|NAME")]
    apply: Option<String>,

    /// Delete a snapshot; a name comes before an ID, as with qemu-img
    #[arg(short = 'd', long, value_name = "NAME|ID")]
    delete: Option<String>,
}

/// Does what the arguments say.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let action = &arguments.action;
    if action.create.is_none() && action.apply.is_none() && action.delete.is_none() {
        return list(arguments).await;
    }
    // What a backing file holds matters to none of these.
    let options = write_options(&arguments.file, arguments.format).layers_max(1);
    let chain = options.chain().await?;
    match chain.layers()[0].format {
        Format::Qcow2 => action.on_qcow2(&*chain.into_qcow2().await?).await,
        Format::Flat => action.on_flat(&*chain.into_flat().await?).await,
        Format::Raw => Err(raw(arguments)),
    }
}

impl Action {
    async fn on_qcow2(&self, image: &Qcow2<FileStorage>) -> Result<()> {
        if let Some(name) = &self.create {
            image.create_snapshot(new_snapshot(name)?).await?;
        }
        if let Some(name) = &self.apply {
            image.apply_snapshot(name).await?;
        }
        if let Some(name) = &self.delete {
            image.delete_snapshot(name).await?;
        }
        Ok(image.close().await?)
    }

    async fn on_flat(&self, image: &Flat<FileStorage>) -> Result<()> {
        if let Some(name) = &self.create {
            image.create_snapshot(new_flat_snapshot(name)?).await?;
        }
        if let Some(name) = &self.apply {
            image.apply_snapshot(name).await?;
        }
        if let Some(name) = &self.delete {
            image.delete_snapshot(name).await?;
        }
        Ok(image.close().await?)
    }
}

fn raw(arguments: &Arguments) -> anyhow::Error {
    let file = arguments.file.display();
    anyhow!("{file}: a raw image has no snapshots; a qcow2 or a compact flat one has")
}

async fn list(arguments: &Arguments) -> Result<()> {
    let options = read_options(&arguments.file, arguments.format)
        .share_all(arguments.force_share)
        .layers_max(1);
    let chain = options.chain().await?;
    let image = &chain.layers()[0];
    if image.format == Format::Raw {
        return Err(raw(arguments));
    }
    // No journal has anything of the directory in a flat image.
    if image.format != Format::Flat {
        image.refuse_unclosed()?;
    }
    let snapshots = Snapshot::all_of(image).await?;
    image.storage.close();
    if snapshots.is_empty() {
        return Ok(());
    }
    let lines = snapshot_table(&snapshots);
    let lines = lines.iter().map(|line| human::printable(line) + "\n");
    super::print(&lines.collect::<String>())
}

fn since_1970() -> Result<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.context("the clock is before 1970")
}

fn new_flat_snapshot(name: &str) -> Result<flat::NewSnapshot> {
    let now = since_1970()?;
    Ok(flat::NewSnapshot {
        name: name.to_owned(),
        date_seconds: now.as_secs(),
        date_ns: now.subsec_nanos(),
    })
}

fn new_snapshot(name: &str) -> Result<NewSnapshot> {
    let now = since_1970()?;
    Ok(NewSnapshot {
        name: name.to_owned(),
        id: None,
        date_seconds: u32::try_from(now.as_secs()).context("the clock is after 2105")?,
        date_ns: now.subsec_nanos(),
        vm_clock_ns: 0,
    })
}
