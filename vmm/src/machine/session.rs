//! One run of a machine, from its first instruction to its ending: input, signals, pauses.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::event::descriptor;
use super::{Ending, Machine};
use crate::console::{self, Console, Key};
use crate::notice::notice;
use crate::signals::{SignalPipe, Signals};
use crate::statistics::ExitCounts;
use crate::vcpu::{Vcpus, Wanted};

/// How often to look whether somebody has attached to a pseudo-terminal, which no event tells.
const ATTACH_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};
/// How often vCPUs are looked at for a moment in which their hooks can be put in place.
const SETTLE_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 4_000_000,
};

/// What the event loop was woken by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Ending,
    EndSignal,
    ResumeSignal,
    Input,
    SerialRoom,
    Unsettled,
}

/// A running machine and what acts on it.
pub(crate) struct Session<'a> {
    machine: &'a Machine,
    console: Option<&'a mut Console>,
    signals: &'a mut Signals,
    vcpus: Vcpus,
    /// Input that the guest's serial port has no room for yet.
    pending: Vec<u8>,
    paused: bool,
    /// Whether hooks are not yet as they are wanted.
    unsettled: bool,
}

impl<'a> Session<'a> {
    /// Starts the machine's vCPUs.
    pub(crate) fn start(
        machine: &'a mut Machine,
        console: Option<&'a mut Console>,
        signals: &'a mut Signals,
    ) -> Result<Self> {
        let vcpus = Vcpus::start(
            machine.take_vcpus(),
            &machine.bus,
            &machine.switch,
            machine.insight.as_ref(),
        )?;
        if let Some(console) = &console {
            console.output().limit(true);
        }
        vcpus.set(Wanted::Run);
        Ok(Self {
            machine,
            console,
            signals,
            vcpus,
            pending: Vec::new(),
            paused: false,
            unsettled: false,
        })
    }

    /// Serves the machine until it ends; then no vCPU runs any more.
    pub(crate) fn run(mut self) -> Result<(Ending, ExitCounts)> {
        let ending = self.serve_until_the_end();
        // A vCPU that waits for the console's reader would not stop.
        if let Some(console) = &self.console {
            console.output().limit(false);
        }
        let exits = self.vcpus.stop();
        Ok((ending?, exits))
    }

    fn serve_until_the_end(&mut self) -> Result<Ending> {
        loop {
            if let Some(ending) = self.machine.switch.ending() {
                return Ok(ending.clone());
            }
            for source in self.wait()? {
                self.serve(source)?;
            }
            self.settle_hooks();
        }
    }

    /// Waits until something happens and says what.
    fn wait(&self) -> Result<Vec<Source>> {
        let mut sources: Vec<(Source, BorrowedFd<'_>)> = vec![
            (Source::Ending, descriptor(self.machine.switch.event())),
            (Source::EndSignal, self.signals.end.as_fd()),
            (Source::ResumeSignal, self.signals.resume.as_fd()),
        ];
        let mut timeout = self.unsettled.then_some(&SETTLE_INTERVAL);
        if let Some(insight) = &self.machine.insight {
            sources.push((Source::Unsettled, descriptor(insight.event())));
        }
        if let (Some(console), Some(serial)) = (&self.console, &self.machine.serial) {
            if self.pending.is_empty() {
                sources.extend(console.input_fd().map(|fd| (Source::Input, fd)));
                let attach = console.may_attach().then_some(&ATTACH_INTERVAL);
                timeout = timeout.or(attach);
            } else {
                sources.push((Source::SerialRoom, descriptor(serial.room())));
            }
        }
        let mut fds: Vec<_> = sources
            .iter()
            .map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        let ready = sources
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((source, _), _)| *source).collect())
    }

    fn serve(&mut self, source: Source) -> Result<()> {
        match source {
            Source::Ending => {}
            Source::EndSignal => self.end_signal(),
            Source::ResumeSignal => {
                SignalPipe::take(&mut self.signals.resume);
                console::resume()?;
            }
            Source::Input => self.input(),
            Source::SerialRoom => {
                if let Some(serial) = &self.machine.serial {
                    // Only the wake-up counts, not how often it was signalled.
                    drop(serial.room().read());
                }
                self.feed();
            }
            Source::Unsettled => {
                if let Some(insight) = &self.machine.insight {
                    drop(insight.event().read());
                    self.unsettled = true;
                }
            }
        }
        Ok(())
    }

    /// Has vCPUs leave the guest for a moment while their hooks are not as they are wanted.
    fn settle_hooks(&mut self) {
        if let Some(insight) = &self.machine.insight
            && self.unsettled
        {
            self.unsettled = !insight.is_settled();
            if self.unsettled {
                self.vcpus.kick();
            }
        }
    }

    /// The first signal asks the guest to switch itself off, the next one does it.
    fn end_signal(&mut self) {
        for _ in 0..self.signals.end.take() {
            if std::mem::replace(&mut self.signals.asked_to_end, true) {
                self.machine.switch.end(Ending::Terminated);
            } else {
                notice("microvm: asking the guest to power off; a second signal stops it\r\n");
                // A paused guest cannot hear the button.
                self.pause(false);
                if let Err(error) = self.machine.power_button.press() {
                    tracing::error!("cannot press the guest's power button: {error}");
                }
            }
        }
    }

    fn input(&mut self) {
        let keys = self
            .console
            .as_mut()
            .map(|console| console.read())
            .unwrap_or_default();
        for key in keys {
            match key {
                Key::Guest(byte) => self.pending.push(byte),
                Key::Quit => self.machine.switch.end(Ending::Quit),
                Key::Pause => self.pause(!self.paused),
                Key::Help => console::show_help(),
                Key::Nothing => {}
            }
        }
        self.feed();
    }

    /// Gives the serial port as much input as it has room for.
    fn feed(&mut self) {
        if let (Some(serial), Some(console)) = (&self.machine.serial, &self.console) {
            // A vCPU that waits for the console's reader holds the serial port; it must not hold
            // this thread too, which serves signals.
            console.output().limit(false);
            let taken = serial.send(&self.pending);
            console.output().limit(true);
            self.pending.drain(..taken);
        }
    }

    fn pause(&mut self, paused: bool) {
        if self.paused == paused {
            return;
        }
        self.paused = paused;
        self.vcpus
            .set(if paused { Wanted::Pause } else { Wanted::Run });
        let state = if paused {
            "paused: Ctrl-A c goes on"
        } else {
            "running"
        };
        notice(&format!("\r\nmicrovm: {state}\r\n"));
    }
}
