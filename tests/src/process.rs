//! A command that an agent runs, as a test sees it.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use crate::agent::protocol::{Action, Exit, PAYLOAD_BYTES_MAX, Reply, Request, Spec};
use crate::ports::Ports;

/// A running command. Dropping it kills the command and all that it started.
#[derive(Debug)]
pub struct Process {
    requests: Requests,
    replies: Receiver<Reply>,
    exit: Option<Exit>,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: Exit,
}

/// One thing that a command did.
#[derive(Debug)]
pub enum Event {
    /// It wrote to standard output, or to its terminal.
    Stdout(Vec<u8>),
    /// It wrote to standard error.
    Stderr(Vec<u8>),
    /// It ended; nothing follows.
    Exit(Exit),
}

/// The way to a running command, also from other threads.
#[derive(Clone, Debug)]
pub struct Requests {
    stream: Arc<Mutex<UnixStream>>,
    command: u32,
}

impl Requests {
    /// Writes to the command's standard input; does nothing once the command ended.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(PAYLOAD_BYTES_MAX) {
            self.send(Action::Input(part.to_vec()))?;
        }
        Ok(())
    }

    /// Sends one request; does nothing once the command ended.
    pub fn send(&self, action: Action) -> Result<()> {
        let request = Request {
            command: self.command,
            action,
        };
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        request
            .write(&mut *stream)
            .context("the agent's stream is closed")
    }
}

static NEXT_COMMAND: AtomicU32 = AtomicU32::new(1);

impl Process {
    /// Starts a command on a free port.
    pub fn start(ports: &Ports, spec: Spec) -> Result<Self> {
        let stream = ports.take()?;
        let command = NEXT_COMMAND.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(Mutex::new(stream.try_clone()?));
        let requests = Requests {
            stream: shared,
            command,
        };
        let sent = requests.send(Action::Start(spec));
        let (sender, replies) = channel();
        let ports = ports.clone();
        thread::spawn(move || {
            let whole = forward(&stream, &sender);
            ports.give_back(whole.then_some(stream));
        });
        sent?;
        Ok(Self {
            requests,
            replies,
            exit: None,
        })
    }

    /// Writes to the command's standard input.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        self.requests.write(bytes)
    }

    /// Closes the command's standard input.
    pub fn close_stdin(&self) -> Result<()> {
        self.requests.send(Action::Input(Vec::new()))
    }

    /// Sends a signal: KILL to all that the command started, any other to the command alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.requests.send(Action::Signal(signal.as_raw()))
    }

    /// The way to the command, for another thread.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// The next thing the command does; nothing when it does nothing for `patience`.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Event>> {
        if let Some(exit) = self.exit {
            return Ok(Some(Event::Exit(exit)));
        }
        match self.replies.recv_timeout(patience) {
            Ok(Reply::Output(bytes)) => Ok(Some(Event::Stdout(bytes))),
            Ok(Reply::Error(bytes)) => Ok(Some(Event::Stderr(bytes))),
            Ok(Reply::Exit(exit)) => {
                self.exit = Some(exit);
                Ok(Some(Event::Exit(exit)))
            }
            Ok(Reply::Failed(reason)) => bail!("{reason}"),
            Ok(Reply::Ready) => bail!("the agent started anew"),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the host of the command is gone"),
        }
    }

    /// Waits for the end and collects what was printed until then; an error when nothing happens
    /// for `patience`.
    pub fn output(self, patience: Duration) -> Result<Output> {
        self.output_nudged(patience, |_| bail!("nothing happened for {patience:?}"))
    }

    /// The same, where `nudge` is called whenever nothing has happened for `patience`.
    pub fn output_nudged(
        mut self,
        patience: Duration,
        mut nudge: impl FnMut(&Requests) -> Result<()>,
    ) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next(patience)? {
                Some(Event::Stdout(bytes)) => stdout.extend(bytes),
                Some(Event::Stderr(bytes)) => stderr.extend(bytes),
                Some(Event::Exit(exit)) => {
                    return Ok(Output {
                        stdout,
                        stderr,
                        exit,
                    });
                }
                None => nudge(&self.requests)?,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The forwarding thread gives the port back once the agent reports the end.
        let _ = self.signal(Signal::KILL);
    }
}

/// Hands replies on until the command is over. False when the stream broke first.
fn forward(mut stream: &UnixStream, replies: &Sender<Reply>) -> bool {
    while let Ok(Some(reply)) = Reply::read(&mut stream) {
        let over = matches!(reply, Reply::Exit(_) | Reply::Failed(_));
        // Nobody listens once the handle is dropped; the stream is still read to the end.
        let _ = replies.send(reply);
        if over {
            return true;
        }
    }
    false
}
