//! The guest's side of the tests of insight: work whose system calls are watched, and that tells
//! when one did not do what it should. Without arguments it says what it can do.
//!
//! The last line tells what was done, in words `KEY=VALUE`; after a failure it is
//! `guest-syscalls: …`, and the status is not 0.

use std::path::Path;
use std::process::ExitCode;

use tests::syscalls::run;

/// Under this name, by a symbolic link, the program is one that encrypts.
const CIPHER_NAME: &str = "gpg";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    let mut words: Vec<_> = arguments.iter().skip(1).map(String::as_str).collect();
    let name = arguments
        .first()
        .and_then(|name| Path::new(name).file_name());
    if name.is_some_and(|name| name == CIPHER_NAME) && words.first() != Some(&"encrypt") {
        words.insert(0, "encrypt");
    }
    // What is executed for its end alone, with as few system calls as can be.
    if let ["exit", status] = words[..] {
        return status
            .parse::<u8>()
            .map_or(ExitCode::FAILURE, ExitCode::from);
    }
    match run(&words) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("guest-syscalls: {error:#}");
            ExitCode::FAILURE
        }
    }
}
