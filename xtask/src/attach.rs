//! Connects a command on a host to this program's own standard streams.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tests::agent::protocol::{Action, Exit};
use tests::process::{Event, Process, Requests};

/// As good as forever, for a command that a person is looking at.
const PATIENCE: Duration = Duration::from_hours(24 * 365);

/// Rows and columns of the terminal, where standard input and output both are one.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    let stdout = io::stdout();
    let both = io::stdin().is_terminal() && stdout.is_terminal();
    let size = tcgetwinsize(&stdout).ok().filter(|_| both)?;
    Some((size.ws_row, size.ws_col))
}

/// Passes everything through until the command ends, or `deadline` comes: then nothing is
/// returned. `terminal` says that the command has a terminal of its own.
pub(crate) fn attach(
    mut process: Process,
    terminal: bool,
    deadline: Option<Instant>,
) -> Result<Option<Exit>> {
    let _raw = if terminal {
        Some(RawTerminal::enter()?)
    } else {
        None
    };
    let requests = process.requests();
    thread::spawn(move || feed(&requests));
    loop {
        let patience = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
            // A command that never stops talking must not put the deadline off.
            Some(Duration::ZERO) => return Ok(None),
            Some(left) => left,
            None => PATIENCE,
        };
        match process.next(patience)? {
            Some(Event::Stdout(bytes)) => show(io::stdout(), &bytes)?,
            Some(Event::Stderr(bytes)) => show(io::stderr(), &bytes)?,
            Some(Event::Exit(exit)) => return Ok(Some(exit)),
            None => return Ok(None),
        }
    }
}

fn show(mut stream: impl io::Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

fn feed(requests: &Requests) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
        if requests.write(&buffer[..length]).is_err() {
            return;
        }
    }
    // The end of the input, or nothing to read it from.
    let _ = requests.send(Action::Input(Vec::new()));
}

/// The terminal while another machine's programs have it.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
        let _ = io::stdout().flush();
    }
}
