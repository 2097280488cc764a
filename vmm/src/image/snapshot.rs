//! `image snapshot`: the snapshots in a qcow2 image.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use disk::qcow2::NewSnapshot;
use disk::{Disk as _, Format, Storage as _};

use super::arguments::{read_options, write_options};
use super::human;
use super::info::Snapshot;
use super::snapshot_table::snapshot_table;

/// The arguments of `image snapshot`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    action: Action,

    /// Format of the image; only a qcow2 one has snapshots
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

    /// Delete a snapshot
    #[arg(short = 'd', long, value_name = "ID|NAME")]
    delete: Option<String>,
}

/// Does what the arguments say.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let Action {
        create,
        apply,
        delete,
        ..
    } = &arguments.action;
    if create.is_none() && apply.is_none() && delete.is_none() {
        return list(arguments).await;
    }
    // What a backing file holds matters to none of these.
    let options = write_options(&arguments.file, arguments.format).layers_max(1);
    let image = options.open_qcow2().await?;
    if let Some(name) = create {
        image.create_snapshot(new_snapshot(name)?).await?;
    }
    if let Some(name) = apply {
        image.apply_snapshot(name).await?;
    }
    if let Some(name) = delete {
        image.delete_snapshot(name).await?;
    }
    Ok(image.close().await?)
}

async fn list(arguments: &Arguments) -> Result<()> {
    let options = read_options(&arguments.file, arguments.format)
        .share_all(arguments.force_share)
        .layers_max(1);
    let chain = options.chain().await?;
    let image = &chain.layers()[0];
    if image.format != Format::Qcow2 {
        let (file, format) = (arguments.file.display(), image.format);
        bail!("{file}: a {format} image has no snapshots");
    }
    image.refuse_unclosed()?;
    let snapshots = image.snapshots().await?;
    image.storage.close();
    if snapshots.is_empty() {
        return Ok(());
    }
    let snapshots: Vec<_> = snapshots.iter().map(Snapshot::of).collect();
    let lines = snapshot_table(&snapshots);
    let lines = lines.iter().map(|line| human::printable(line) + "\n");
    super::print(&lines.collect::<String>())
}

fn new_snapshot(name: &str) -> Result<NewSnapshot> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(NewSnapshot {
        name: name.to_owned(),
        id: None,
        date_seconds: u32::try_from(now.as_secs()).context("the clock is after 2105")?,
        date_ns: now.subsec_nanos(),
        vm_clock_ns: 0,
    })
}
