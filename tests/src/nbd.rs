//! A program that serves an image to NBD clients, ours or another.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// What another program may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server. Dropping it kills it.
pub struct Server {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    socket: PathBuf,
    announcements: Vec<String>,
}

/// How a server ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Server {
    /// Starts `microvm image serve` with `words` after the socket, and waits until it listens.
    pub fn microvm(program: &Path, socket: &Path, words: &[&str]) -> Result<Self> {
        let address = format!("unix:{}", socket.display());
        let words = [&["--nbd", &address], words].concat();
        let mut server = Self::microvm_anywhere(program, &words, 1)?;
        socket.clone_into(&mut server.socket);
        Ok(server)
    }

    /// Starts `microvm image serve` with `words`, which say where it listens, and waits until it
    /// has said so in so many lines.
    pub fn microvm_anywhere(program: &Path, words: &[&str], lines: usize) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["image", "serve"]).args(words);
        command.stderr(Stdio::piped());
        let mut server = Self::spawn(&mut command, Path::new(""))?;
        for _ in 0..lines {
            let mut line = String::new();
            if let Some(stdout) = &mut server.stdout {
                stdout.read_line(&mut line)?;
            }
            if line.is_empty() {
                let ended = server.wait()?;
                anyhow::bail!("{}: {}", ended.status, ended.stderr.trim());
            }
            server.announcements.push(line.trim_end().to_owned());
        }
        Ok(server)
    }

    /// Starts another server that `command` tells to listen on `socket`.
    pub fn other(command: &mut Command, socket: &Path) -> Result<Self> {
        let server = Self::spawn(command, socket)?;
        let start = Instant::now();
        while UnixStream::connect(socket).is_err() {
            ensure!(start.elapsed() < PATIENCE, "{command:?} does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    fn spawn(command: &mut Command, socket: &Path) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Self {
            stdout: child.stdout.take().map(BufReader::new),
            child,
            socket: socket.to_owned(),
            announcements: Vec::new(),
        })
    }

    /// The lines that it printed when it began to listen.
    pub fn announcements(&self) -> &[String] {
        &self.announcements
    }

    /// Where it listens, if that is a socket with a path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How clients call its export named `name`.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket.display())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has had, in KiB.
    pub fn memory_peak_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.context("no VmHWM")?.trim().trim_end_matches(" kB");
        Ok(kib.parse()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process")?, signal)?;
        Ok(())
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Ended> {
        let mut stderr = String::new();
        if let Some(pipe) = &mut self.child.stderr {
            pipe.read_to_string(&mut stderr)?;
        }
        let status = self.child.wait()?;
        Ok(Ended { status, stderr })
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(self) -> Result<Ended> {
        self.signal(Signal::TERM)?;
        self.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
