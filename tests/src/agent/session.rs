//! Serves one stream: command after command, each with its streams, signals and exit status.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use super::protocol::{Action, Exit, PAYLOAD_BYTES_MAX, Reply, Request, Spec};
use super::spawn::{Spawned, spawn};

/// Input frames that may wait for a command that does not read: then the client waits.
const INPUT_FRAMES_MAX: usize = 256;

/// The client's side of the stream, shared by the threads that answer.
type Writer<W> = Arc<Mutex<W>>;

/// Runs commands for the client of a stream until the stream ends, then kills the one that runs.
pub fn serve<W>(mut reader: impl Read, writer: W) -> io::Result<()>
where
    W: Write + Send + 'static,
{
    let writer = Arc::new(Mutex::new(writer));
    reply(&writer, &Reply::Ready)?;
    let mut running: Option<Running> = None;
    while let Some(Request { command, action }) = Request::read(&mut reader)? {
        match (action, &mut running) {
            (Action::Start(spec), _) => running = Running::start(command, spec, &writer)?,
            (Action::Input(bytes), Some(running)) if running.command == command => {
                running.input(bytes);
            }
            (Action::Signal(signal), Some(running)) if running.command == command => {
                running.signal(signal);
            }
            // The command ended before the client could know.
            _ => {}
        }
    }
    Ok(())
}

fn reply<W: Write>(writer: &Writer<W>, reply: &Reply) -> io::Result<()> {
    reply.write(&mut *writer.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The process while its number is certainly its own: gone from here before it is reaped.
type Target = Arc<Mutex<Option<Pid>>>;

struct Running {
    command: u32,
    /// `None` once the client closed the command's standard input.
    input: Option<SyncSender<Vec<u8>>>,
    target: Target,
}

impl Running {
    /// Starts a command, or tells the client why it does not start. It is started from the thread
    /// that will wait for it: the kernel kills a command when the thread that started it ends.
    fn start<W>(command: u32, spec: Spec, writer: &Writer<W>) -> io::Result<Option<Self>>
    where
        W: Write + Send + 'static,
    {
        let (started, outcome) = sync_channel(1);
        let to_client = Arc::clone(writer);
        thread::spawn(move || {
            let spawned = spawn(&spec);
            run(command, spawned, &started, &to_client);
        });
        let ended = |_| io::Error::other("the command's thread ended");
        match outcome.recv().map_err(ended)? {
            Ok(running) => Ok(Some(running)),
            Err(error) => {
                reply(writer, &Reply::Failed(error.to_string()))?;
                Ok(None)
            }
        }
    }

    fn input(&mut self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            self.input = None;
        } else if let Some(input) = &self.input {
            // An error means that the command no longer reads, which is its right.
            let _ = input.send(bytes);
        }
    }

    fn signal(&self, number: i32) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(pid), Some(signal)) = (*target, Signal::from_named_raw(number)) else {
            return;
        };
        // A kill is meant for all that the command started, any other signal for the command.
        let _ = if signal == Signal::KILL {
            kill_process_group(pid, signal)
        } else {
            kill_process(pid, signal)
        };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL.as_raw());
    }
}

/// Reports the start, moves the streams of the command until it is over, reports its end.
fn run<W>(
    command: u32,
    spawned: io::Result<Spawned>,
    started: &SyncSender<io::Result<Running>>,
    writer: &Writer<W>,
) where
    W: Write + Send + 'static,
{
    let Spawned {
        mut child,
        input,
        output,
        error,
    } = match spawned {
        Ok(spawned) => spawned,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let (sender, receiver) = sync_channel(INPUT_FRAMES_MAX);
    let target = Arc::new(Mutex::new(Pid::from_raw(child.id().cast_signed())));
    let running = Running {
        command,
        input: Some(sender),
        target: Arc::clone(&target),
    };
    let _ = started.send(Ok(running));
    thread::spawn(move || feed(input, &receiver));
    let mut pumps = vec![pump(output, Reply::Output, writer)];
    pumps.extend(error.map(|error| pump(error, Reply::Error, writer)));
    let exit = wait(&mut child, &target);
    for pump in pumps {
        let _ = pump.join();
    }
    let _ = match exit {
        Ok(exit) => reply(writer, &Reply::Exit(exit)),
        Err(error) => reply(writer, &Reply::Failed(format!("cannot wait: {error}"))),
    };
}

fn feed(mut input: Box<dyn Write + Send>, frames: &Receiver<Vec<u8>>) {
    for bytes in frames {
        if input.write_all(&bytes).is_err() {
            return;
        }
    }
}

fn pump<W>(
    mut stream: Box<dyn Read + Send>,
    kind: fn(Vec<u8>) -> Reply,
    writer: &Writer<W>,
) -> JoinHandle<()>
where
    W: Write + Send + 'static,
{
    let writer = Arc::clone(writer);
    thread::spawn(move || {
        let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
        // A terminal whose last user is gone reads as an error instead of an end.
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if reply(&writer, &kind(buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    })
}

/// Waits for the command, then ends what it left behind: the streams close with the last of them.
fn wait(child: &mut Child, target: &Target) -> io::Result<Exit> {
    let pid = Pid::from_raw(child.id().cast_signed());
    if let Some(pid) = pid {
        waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )?;
        let mut target = target.lock().unwrap_or_else(PoisonError::into_inner);
        *target = None;
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait()?;
    Ok(match (status.code(), status.signal()) {
        (Some(status), _) => Exit::Status(status),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    })
}
