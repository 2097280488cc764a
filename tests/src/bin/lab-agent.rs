//! The init of the emulated KVM host (`lab-agent`), and the process that serves its ports
//! (`lab-agent serve PORT…`).

use std::path::PathBuf;

use tests::agent::init;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let outcome = match arguments.next() {
        Some(word) if word == "serve" => {
            init::serve_ports(&arguments.map(PathBuf::from).collect::<Vec<_>>())
        }
        _ => init::run(),
    };
    if let Err(error) = outcome {
        eprintln!("lab-agent: {error:#}");
    }
    if std::process::id() == 1 {
        init::power_off();
    }
}
