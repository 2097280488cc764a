//! The guest's console: where its serial port's output goes and where its input comes from.

mod crash;
mod escape;
mod output;
mod panic_watch;
mod pty;
mod terminal;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};

use escape::{Escape, HELP};
use output::Output;
use pty::{Pty, PtySink, attached};
use terminal::RawMode;

use crate::notice::notice;
use crate::output_file;

pub(crate) use escape::Key;
pub(crate) use output::OutputWriter;
pub(crate) use terminal::{restore_on_panic, resume};

/// How much input is read at once.
const INPUT_BYTES: usize = 256;

/// What `--console` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The guest has no serial console.
    Off,
    /// Standard input and output.
    Stdio,
    /// Output to a file, no input.
    File(PathBuf),
    /// A new pseudo-terminal.
    Pty,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "off" => Ok(Self::Off),
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "pty" => Ok(Self::Pty),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("use off, stdio, file=PATH or pty".to_string()),
        }
    }
}

/// Where input comes from.
enum Input {
    /// Standard input. A terminal's escapes are recognised; a pipe's bytes are all the guest's.
    Stdin(Option<Escape>),
    Pty(OwnedFd),
}

/// An open console. It outlives guest resets.
pub(crate) struct Console {
    output: Output,
    input: Option<Input>,
    raw: Option<RawMode>,
    /// The file to empty when the first guest starts.
    file: Option<File>,
    begun: bool,
}

impl Console {
    /// Opens what `kind` names; `None` where the guest has no console. The terminal stays as it is
    /// and a file keeps its content until [`Console::begin`].
    pub(crate) fn open(kind: &Kind) -> Result<Option<Self>> {
        match kind {
            Kind::Off => Ok(None),
            Kind::Stdio => Self::stdio().map(Some),
            Kind::File(path) => Self::file(path).map(Some),
            Kind::Pty => Self::pty().map(Some),
        }
    }

    fn new(sink: impl Write + Send + 'static, input: Option<Input>) -> Result<Self> {
        let output = Output::start(sink)?;
        Ok(Self {
            output,
            input,
            raw: None,
            file: None,
            begun: false,
        })
    }

    fn stdio() -> Result<Self> {
        // Not std's stdout: its lock and line buffer would stand between bytes and the terminal.
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        let stdout = stdout.context("cannot duplicate standard output")?;
        Self::new(File::from(stdout), Some(Input::Stdin(None)))
    }

    fn file(path: &Path) -> Result<Self> {
        let cannot = || format!("{}: cannot open for the console's output", path.display());
        let file = output_file::open(path).with_context(cannot)?;
        let sink = file.try_clone().with_context(cannot)?;
        Ok(Self {
            file: Some(file),
            ..Self::new(sink, None)?
        })
    }

    fn pty() -> Result<Self> {
        let pty = Pty::open()?;
        notice(&format!("microvm: the console is {}\n", pty.path));
        let sink = PtySink(File::from(pty.try_clone()?));
        Self::new(sink, Some(Input::Pty(pty.try_clone()?)))
    }

    /// Takes the terminal, or empties the file, because a guest is about to start. Later calls
    /// change nothing.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        if let Some(file) = &self.file {
            output_file::empty(file).context("cannot empty the console's file")?;
        }
        if let Some(Input::Stdin(escape)) = &mut self.input {
            self.raw = RawMode::enter()?;
            *escape = self.raw.is_some().then(Escape::default);
        }
        if self.raw.is_some() {
            notice("microvm: Ctrl-A x quits, Ctrl-A h lists the keys\r\n");
        }
        Ok(())
    }

    /// The end that a serial port writes into.
    pub(crate) fn writer(&self) -> OutputWriter {
        self.output.writer()
    }

    /// The output, for its end.
    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// What to wait for until there is input; `None` while there can be none.
    pub(crate) fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        match self.input.as_ref()? {
            Input::Stdin(_) => Some(rustix::stdio::stdin()),
            Input::Pty(master) => attached(master).then(|| master.as_fd()),
        }
    }

    /// Whether somebody may attach later, so that [`Console::input_fd`] is worth asking again.
    pub(crate) fn may_attach(&self) -> bool {
        matches!(self.input, Some(Input::Pty(_)))
    }

    /// Reads what is there, at most [`INPUT_BYTES`]; call when [`Console::input_fd`] is ready.
    pub(crate) fn read(&mut self) -> Vec<Key> {
        let mut bytes = [0; INPUT_BYTES];
        let read = match &self.input {
            Some(Input::Stdin(_)) => rustix::io::read(rustix::stdio::stdin(), &mut bytes[..]),
            Some(Input::Pty(master)) => rustix::io::read(master, &mut bytes[..]),
            None => Ok(0),
        };
        match (read, &mut self.input) {
            (Ok(len @ 1..), Some(Input::Stdin(Some(escape)))) => {
                bytes[..len].iter().map(|&byte| escape.key(byte)).collect()
            }
            (Ok(len @ 1..), _) => bytes[..len].iter().map(|&byte| Key::Guest(byte)).collect(),
            // Who attached to a pseudo-terminal and left may come back.
            (Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN), _)
            | (_, Some(Input::Pty(_))) => Vec::new(),
            // The end of piped input: the guest goes on without.
            (_, input) => {
                *input = None;
                Vec::new()
            }
        }
    }
}

/// Shows the escape keys, not through the guest's output: its panic watch shall not read this.
pub(crate) fn show_help() {
    notice(HELP);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_named_as_documented() {
        assert_eq!("off".parse(), Ok(Kind::Off));
        assert_eq!("stdio".parse(), Ok(Kind::Stdio));
        assert_eq!("pty".parse(), Ok(Kind::Pty));
        assert_eq!("file=a=b".parse(), Ok(Kind::File("a=b".into())));
        for wrong in ["", "file", "file=", "pty=x", "null"] {
            assert!(wrong.parse::<Kind>().is_err(), "{wrong}");
        }
    }
}
