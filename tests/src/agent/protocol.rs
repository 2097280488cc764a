//! The wire format between a test and the agent that runs its commands.
//!
//! One stream carries one command at a time: the client sends its [`Spec`], then input and
//! signals; the agent answers with output and ends with [`Reply::Exit`] or [`Reply::Failed`].
//! Every request names its command by number: one that crosses the command's end on its way
//! belongs to nobody and is dropped, instead of reaching the next command on the stream.
//!
//! A frame is `kind: u8`, `command: u32`, `length: u32`, both little-endian, then `length` bytes.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Longest payload of a frame, in bytes; a longer one means that the stream is out of step.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// A program to run, as the agent gets it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Program and arguments; the program is looked up in the agent's `PATH`.
    pub argv: Vec<String>,
    /// Variables set on top of the agent's own environment.
    pub env: Vec<(String, String)>,
    /// Working directory, made if it is missing.
    pub cwd: String,
    /// A terminal of this many rows and columns instead of three pipes.
    pub terminal: Option<(u16, u16)>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this status.
    Status(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// The status a shell would show: 128 plus the signal's number for a signal.
    pub fn shell_status(self) -> i32 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// From the client to the agent, about one command.
#[derive(Debug)]
pub struct Request {
    /// The number of the command, unique on its stream.
    pub command: u32,
    /// What to do with it.
    pub action: Action,
}

/// What a client wants of a command.
#[derive(Debug)]
pub enum Action {
    /// Run a command.
    Start(Spec),
    /// Bytes for its standard input; none at all closes it.
    Input(Vec<u8>),
    /// Send it this signal.
    Signal(i32),
}

/// From the agent to the client.
#[derive(Debug)]
pub enum Reply {
    /// The agent listens; sent once.
    Ready,
    /// Bytes of standard output.
    Output(Vec<u8>),
    /// Bytes of standard error.
    Error(Vec<u8>),
    /// The command is over and all its output has been sent.
    Exit(Exit),
    /// The command could not be started; the reason.
    Failed(String),
}

const START: u8 = 1;
const INPUT: u8 = 2;
const SIGNAL: u8 = 3;
const READY: u8 = 16;
const OUTPUT: u8 = 17;
const ERROR: u8 = 18;
const EXIT: u8 = 19;
const FAILED: u8 = 20;

impl Request {
    /// Writes the frame.
    pub fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        match &self.action {
            Action::Start(spec) => {
                write_frame(stream, START, self.command, &serde_json::to_vec(spec)?)
            }
            Action::Input(bytes) => write_frame(stream, INPUT, self.command, bytes),
            Action::Signal(signal) => {
                write_frame(stream, SIGNAL, self.command, &signal.to_le_bytes())
            }
        }
    }

    /// Reads the next frame; `None` at the end of the stream.
    pub fn read(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let Some(Frame {
            kind,
            command,
            payload,
        }) = read_frame(stream)?
        else {
            return Ok(None);
        };
        let action = match kind {
            START => Action::Start(serde_json::from_slice(&payload)?),
            INPUT => Action::Input(payload),
            SIGNAL => Action::Signal(i32::from_le_bytes(
                payload
                    .try_into()
                    .map_err(|_| invalid("a signal frame of the wrong length"))?,
            )),
            _ => return Err(invalid("an unknown kind of request")),
        };
        Ok(Some(Self { command, action }))
    }
}

impl Reply {
    /// Writes the frame.
    pub fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Ready => write_frame(stream, READY, 0, &[]),
            Self::Output(bytes) => write_frame(stream, OUTPUT, 0, bytes),
            Self::Error(bytes) => write_frame(stream, ERROR, 0, bytes),
            Self::Exit(exit) => write_frame(stream, EXIT, 0, &serde_json::to_vec(exit)?),
            Self::Failed(reason) => write_frame(stream, FAILED, 0, reason.as_bytes()),
        }
    }

    /// Reads the next frame; `None` at the end of the stream.
    pub fn read(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let Some(Frame { kind, payload, .. }) = read_frame(stream)? else {
            return Ok(None);
        };
        Ok(Some(match kind {
            READY => Self::Ready,
            OUTPUT => Self::Output(payload),
            ERROR => Self::Error(payload),
            EXIT => Self::Exit(serde_json::from_slice(&payload)?),
            FAILED => Self::Failed(String::from_utf8_lossy(&payload).into_owned()),
            _ => return Err(invalid("an unknown kind of reply")),
        }))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

struct Frame {
    kind: u8,
    command: u32,
    payload: Vec<u8>,
}

/// One write a frame, so that frames of several threads never mix under one lock.
fn write_frame(stream: &mut impl Write, kind: u8, command: u32, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| invalid("a frame too long"))?;
    let mut frame = Vec::with_capacity(9 + payload.len());
    frame.push(kind);
    frame.extend_from_slice(&command.to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame)?;
    stream.flush()
}

fn read_frame(stream: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut header = [0; 9];
    if let Err(error) = stream.read_exact(&mut header) {
        let ended = error.kind() == io::ErrorKind::UnexpectedEof;
        return if ended { Ok(None) } else { Err(error) };
    }
    let [kind, c0, c1, c2, c3, length @ ..] = header;
    let length = u32::from_le_bytes(length) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(invalid("a frame longer than any that is sent"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok(Some(Frame {
        kind,
        command: u32::from_le_bytes([c0, c1, c2, c3]),
        payload,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_sent() {
        let mut wire = Vec::new();
        Reply::Ready.write(&mut wire).unwrap();
        Reply::Output(vec![0, 255]).write(&mut wire).unwrap();
        Reply::Exit(Exit::Signal(9)).write(&mut wire).unwrap();
        let mut wire = wire.as_slice();
        assert!(matches!(
            Reply::read(&mut wire).unwrap(),
            Some(Reply::Ready)
        ));
        assert!(matches!(Reply::read(&mut wire).unwrap(), Some(Reply::Output(b)) if b == [0, 255]));
        let last = Reply::read(&mut wire).unwrap();
        assert!(matches!(last, Some(Reply::Exit(exit)) if exit.shell_status() == 137));
        assert!(Reply::read(&mut wire).unwrap().is_none());
    }

    #[test]
    fn a_stream_out_of_step_is_an_error_and_no_allocation() {
        let error = Request::read(&mut [INPUT, 1, 0, 0, 0, 0, 0, 0, 0xff].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(Request::read(&mut [99; 9].as_slice()).is_err());
    }
}
