//! stub
use std::process::ExitCode;
#[derive(clap::Args)]
pub(crate) struct Arguments {}
pub(crate) fn run(_a: &Arguments) -> anyhow::Result<ExitCode> {
    anyhow::bail!("x")
}
