//! A running guest, as a test sees it: its console, its shell, its end.

use std::time::{Duration, Instant};

use anyhow::Result;
use images::initramfs;
use rustix::process::Signal;

use crate::agent::protocol::Exit;
use crate::console::Console;
use crate::host::Host;
use crate::process::{Event, Process};

/// How long a guest may say nothing while a test waits for it: a Debian that is quiet takes minutes
/// to its prompt in the lab, more of them on a busy machine.
const PATIENCE: Duration = Duration::from_mins(10);

/// The programs that a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Userland {
    /// The initramfs of the `images` crate.
    Busybox,
    /// A Debian root file system with systemd.
    Debian,
}

impl Userland {
    fn power_off(self) -> &'static str {
        match self {
            Self::Busybox => "exit 0",
            Self::Debian => "systemctl poweroff",
        }
    }
}

/// A running guest. Dropping it kills its VMM.
#[derive(Debug)]
pub struct Vm {
    process: Process,
    argv: Vec<String>,
    userland: Userland,
    console: Console,
    stderr: Vec<u8>,
    exit: Option<Exit>,
    commands: u32,
}

/// What a command in the guest's shell printed, and its status.
#[derive(Debug)]
pub struct Shell {
    command: String,
    /// Standard output and error, as they came, without the last line end.
    pub text: String,
    /// The status.
    pub status: i32,
}

/// A VMM that ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status, as a shell shows it.
    pub status: i32,
    /// All that the guest wrote on its console.
    pub console: String,
    /// All that the VMM wrote on standard error.
    pub stderr: String,
    argv: Vec<String>,
}

impl Vm {
    /// Starts a VMM on `host`, on a terminal of so many rows and columns or on pipes, and waits for
    /// nothing.
    pub fn start(
        host: &Host,
        argv: Vec<String>,
        userland: Userland,
        terminal: Option<(u16, u16)>,
    ) -> Result<Self> {
        let process = host.spawn(&argv, terminal)?;
        let (console, stderr) = (Console::default(), Vec::new());
        Ok(Self {
            process,
            argv,
            userland,
            console,
            stderr,
            exit: None,
            commands: 0,
        })
    }

    /// Reads the console up to and with the next `pattern`; returns what stands before it.
    ///
    /// # Panics
    /// When the guest ends, or says nothing for minutes, without having written it.
    pub fn expect(&mut self, pattern: &str) -> String {
        loop {
            if let Some(before) = self.console.take_until(pattern) {
                return before.to_owned();
            }
            if self.exit.is_some() {
                self.fail(&format!("the guest ended before it wrote {pattern:?}"));
            }
            self.step(pattern);
        }
    }

    /// Waits until the VMM has said this on standard error.
    ///
    /// # Panics
    /// When the VMM ends, or nothing happens for minutes, without that.
    pub fn expect_stderr(&mut self, pattern: &str) {
        while !String::from_utf8_lossy(&self.stderr).contains(pattern) {
            if self.exit.is_some() {
                self.fail(&format!("the VMM ended before it said {pattern:?}"));
            }
            self.step(pattern);
        }
    }

    /// Lets the guest go on for so long, and takes what it writes meanwhile.
    ///
    /// # Panics
    /// When it ends, or the host is gone.
    pub fn go_on_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.process.next(left) {
                Ok(None) => return,
                Ok(Some(Event::Exit(_))) => self.fail("the guest ended"),
                Ok(Some(event)) => self.take(event),
                Err(error) => self.fail(&format!("{error:#}")),
            }
        }
    }

    /// All that the guest wrote before its host lost power.
    ///
    /// # Panics
    /// When the host is there, and the guest says nothing for minutes.
    pub fn last_words(mut self) -> String {
        while self.exit.is_none() {
            match self.process.next(PATIENCE) {
                Ok(Some(event)) => self.take(event),
                Ok(None) => self.fail("the host still has power"),
                Err(_) => break,
            }
        }
        self.console.text().to_owned()
    }

    /// Waits until the guest's shell asks for a command.
    pub fn wait_for_prompt(&mut self) {
        self.expect(initramfs::PROMPT);
    }

    /// Runs a command in the guest's shell.
    ///
    /// # Panics
    /// When the guest ends or says nothing for minutes.
    pub fn shell(&mut self, command: &str) -> Shell {
        self.commands += 1;
        let number = self.commands;
        let quoted = command.replace('\'', r"'\''");
        // The quotes inside the marks keep a terminal's echo of this line from looking like them.
        self.write(&format!(
            "echo '<'{number}; eval '{quoted}'; echo '>'{number}:$?\n"
        ));
        self.expect(&format!("<{number}\n"));
        let text = self.expect(&format!(">{number}:")).trim_end().to_owned();
        let status = self.expect("\n").trim().parse();
        let Ok(status) = status else {
            self.fail("the shell's status is no number")
        };
        Shell {
            command: command.to_owned(),
            text,
            status,
        }
    }

    /// Types on the guest's console.
    ///
    /// # Panics
    /// When the host is gone.
    pub fn write(&mut self, text: &str) {
        if let Err(error) = self.process.write(text.as_bytes()) {
            self.fail(&format!("{error:#}"));
        }
    }

    /// Closes the VMM's standard input.
    ///
    /// # Panics
    /// When the host is gone.
    pub fn close_stdin(&mut self) {
        if let Err(error) = self.process.close_stdin() {
            self.fail(&format!("{error:#}"));
        }
    }

    /// Sends the VMM a signal.
    ///
    /// # Panics
    /// When the host is gone.
    pub fn signal(&mut self, signal: Signal) {
        if let Err(error) = self.process.signal(signal) {
            self.fail(&format!("{error:#}"));
        }
    }

    /// Has the guest power itself off, and waits for the end of the VMM.
    pub fn power_off(mut self) -> Ended {
        self.write(&format!("{}\n", self.userland.power_off()));
        self.wait()
    }

    /// Waits for the end of the VMM.
    ///
    /// # Panics
    /// When the guest says nothing for minutes.
    pub fn wait(mut self) -> Ended {
        let exit = loop {
            if let Some(exit) = self.exit {
                break exit;
            }
            self.step("the end");
        };
        Ended {
            status: exit.shell_status(),
            console: self.console.text().to_owned(),
            stderr: String::from_utf8_lossy(&self.stderr).into_owned(),
            argv: self.argv,
        }
    }

    fn step(&mut self, awaited: &str) {
        match self.process.next(PATIENCE) {
            Ok(Some(event)) => self.take(event),
            Ok(None) => self.fail(&format!(
                "no {awaited:?}: nothing happened for {PATIENCE:?}"
            )),
            Err(error) => self.fail(&format!("no {awaited:?}: {error:#}")),
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Stdout(bytes) => self.console.append(&bytes),
            Event::Stderr(bytes) => self.stderr.extend(bytes),
            Event::Exit(exit) => self.exit = Some(exit),
        }
    }

    fn fail(&self, what: &str) -> ! {
        let stderr = String::from_utf8_lossy(&self.stderr);
        fail(what, &self.argv, self.console.text(), &stderr)
    }
}

impl Shell {
    /// Requires status 0.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn assert_success(&self) -> &Self {
        assert_eq!(self.status, 0, "{}: {}", self.command, self.text);
        self
    }

    /// Requires status 0 and exactly this output.
    ///
    /// # Panics
    /// When either differs.
    #[track_caller]
    pub fn assert_stdout(&self, expected: &str) {
        let shell = self.assert_success();
        assert_eq!(shell.text, expected, "{}", shell.command);
    }

    /// Requires status 0 and this somewhere in the output.
    ///
    /// # Panics
    /// When either is not so.
    #[track_caller]
    pub fn assert_contains(&self, expected: &str) {
        let shell = self.assert_success();
        assert!(
            shell.text.contains(expected),
            "{}: no {expected:?} in {}",
            shell.command,
            shell.text
        );
    }
}

impl Ended {
    /// Requires this status.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn assert_status(&self, expected: i32) -> &Self {
        if self.status != expected {
            let what = format!("status {} instead of {expected}", self.status);
            fail(&what, &self.argv, &self.console, &self.stderr);
        }
        self
    }

    /// Requires this somewhere in what the guest wrote.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn assert_console(&self, expected: &str) -> &Self {
        if !self.console.contains(expected) {
            fail(
                &format!("no {expected:?}"),
                &self.argv,
                &self.console,
                &self.stderr,
            );
        }
        self
    }

    /// Requires this somewhere in what the VMM said.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn assert_stderr(&self, expected: &str) -> &Self {
        if !self.stderr.contains(expected) {
            fail(
                &format!("no {expected:?} on standard error"),
                &self.argv,
                &self.console,
                &self.stderr,
            );
        }
        self
    }
}

/// Fails a test with all there is to know about its guest.
#[track_caller]
fn fail(what: &str, argv: &[String], console: &str, stderr: &str) -> ! {
    let quote = |word: &String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,".contains(c);
        if word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let command: Vec<_> = argv.iter().map(quote).collect();
    panic!(
        "{what}\n--- console\n{console}\n--- standard error\n{stderr}\n--- the guest was\n{}",
        command.join(" ")
    );
}
