//! `image info`: what an image is.

mod backing;
mod describe;
mod flat;
mod journal;
mod text;

use anyhow::Result;
use clap::Args;
use disk::{CHAIN_MAX, Chain, Storage as _};

use super::arguments::{Output, Source};
use describe::Description;
pub(super) use describe::Snapshot;

/// The arguments of `image info`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,

    /// Describe the backing files too, one after the other
    #[arg(long)]
    backing_chain: bool,

    /// Say what the journal of an image holds that is in use (with -U) or was not closed
    #[arg(long)]
    journal: bool,

    /// What to print
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    output: Output,
}

/// Prints what the image is. Its backing files are looked at only if that is asked for.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let layers_max = if arguments.backing_chain {
        CHAIN_MAX
    } else {
        1
    };
    let chain = arguments
        .source
        .options()
        .layers_max(layers_max)
        .chain()
        .await?;
    let descriptions = describe(&chain, arguments.journal).await?;
    match arguments.output {
        Output::Human => {
            let texts: Vec<_> = descriptions.iter().map(text::text).collect();
            super::print(&texts.join("\n"))
        }
        Output::Json if arguments.backing_chain => super::print_json(&descriptions),
        Output::Json => super::print_json(&descriptions[0]),
    }
}

async fn describe(chain: &Chain, journal: bool) -> Result<Vec<Description>> {
    let mut descriptions = Vec::new();
    for layer in chain.layers() {
        descriptions.push(Description::of(layer, journal).await?);
        layer.storage.close();
    }
    Ok(descriptions)
}
