//! Runs host programs, and turns their failures into one line.

use std::process::{Command, Output, Stdio};

use crate::{Error, Result};

/// Runs `command` to its end with no standard input; gives its standard output.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(|source| Error::Start {
            program: program(command),
            source,
        })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::Failed {
        command: line(command),
        status: output.status.to_string(),
        message: last_words(&output),
    })
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    // The owner of a process's directory in /proc is its effective user.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|status| status.uid() == 0)
}

/// Tells the user about something that takes a while.
pub(crate) fn progress(what: &str) {
    eprintln!("images: {what}");
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = command
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned());
    std::iter::once(program(command))
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The last three lines, as one: programs end with the reason for their failure, and some go on
/// to say that they failed.
fn last_words(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let mut last: Vec<&str> = lines.rev().take(3).collect();
    last.reverse();
    if last.is_empty() {
        "it gave no reason".into()
    } else {
        last.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_last_words() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "for word in a b reason c d; do echo $word >&2; done; exit 3",
        ]);
        let message = run(&mut command).unwrap_err().to_string();
        assert!(message.contains("sh -c"), "{message}");
        assert!(message.contains("exit status: 3"), "{message}");
        assert!(message.ends_with(": reason; c; d"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let message = run(&mut Command::new("no-such-program"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("cannot run no-such-program"), "{message}");
    }
}
