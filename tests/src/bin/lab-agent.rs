//! The programs of the emulated KVM host: its init (`lab-agent`), what serves its ports
//! (`lab-agent serve PORT…`), and the stop-watch (`lab-agent measure MARK COMMAND…`).

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tests::agent::{init, measure};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let outcome = match arguments.next().as_deref() {
        Some("serve") => init::serve_ports(&arguments.map(PathBuf::from).collect::<Vec<_>>()),
        Some("measure") => print_measurement(arguments),
        _ => init::run(),
    };
    let failed = outcome.is_err();
    if let Err(error) = outcome {
        eprintln!("lab-agent: {error:#}");
    }
    if std::process::id() == 1 {
        init::power_off();
    }
    std::process::exit(i32::from(failed));
}

fn print_measurement(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mark = arguments.next().context("measure: no mark to wait for")?;
    let start = measure::measure(&mark, &arguments.collect::<Vec<_>>())?;
    println!("{}", serde_json::to_string(&start)?);
    Ok(())
}
