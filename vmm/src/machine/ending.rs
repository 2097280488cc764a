//! How a machine's run ends, and who says so first.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use devices::PowerEvent;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked, with the reason where it is known.
    Panic(Option<String>),
    /// The guest's processor gave up: a fault in the handler of a fault in a handler.
    TripleFault,
    /// The user quit (Ctrl-A x).
    Quit,
    /// A second signal came while the guest was asked to switch itself off.
    Terminated,
    /// The program or the host failed.
    Failure(String),
}

impl From<PowerEvent> for Ending {
    fn from(event: PowerEvent) -> Self {
        match event {
            PowerEvent::Off => Self::PowerOff,
            PowerEvent::Reset => Self::Reset,
            PowerEvent::Panic => Self::Panic(None),
        }
    }
}

impl Ending {
    /// The same ending, where the console told that the guest's kernel panicked before: after a
    /// panic a guest resets, halts or faults.
    pub(crate) fn with_panic(self, reason: Option<String>) -> Self {
        match (self, reason) {
            (Self::Reset | Self::TripleFault | Self::Panic(None), Some(reason)) => {
                Self::Panic(Some(reason))
            }
            (ending, _) => ending,
        }
    }

    /// The exit status of the program, as the manual lists them.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::PowerOff | Self::Reset | Self::Quit => 0,
            Self::Failure(_) => 1,
            Self::Panic(_) => 3,
            Self::TripleFault => 4,
            // What a shell reports for SIGTERM.
            Self::Terminated => 128 + 15,
        }
    }

    /// The line for the user, where the status alone would not tell.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::PowerOff | Self::Reset | Self::Quit => None,
            Self::Panic(Some(reason)) => Some(format!("the guest panicked: {reason}")),
            Self::Panic(None) => Some("the guest panicked".to_string()),
            Self::TripleFault => Some("the guest's processor stopped with a triple fault".into()),
            Self::Terminated => Some("stopped by a second signal".into()),
            Self::Failure(reason) => Some(reason.clone()),
        }
    }
}

/// Ends a run: the first ending said counts, and wakes who waits for it.
#[derive(Debug)]
pub(crate) struct Switch {
    ending: OnceLock<Ending>,
    event: EventFd,
}

impl Switch {
    pub(crate) fn new() -> Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK).context("cannot make an event")?;
        Ok(Self {
            ending: OnceLock::new(),
            event,
        })
    }

    /// Ends the run.
    pub(crate) fn end(&self, ending: Ending) {
        if self.ending.set(ending).is_ok()
            && let Err(error) = self.event.write(1)
        {
            tracing::error!("cannot tell the main thread that the guest ended: {error}");
        }
    }

    /// Whether the run is to end.
    pub(crate) fn ended(&self) -> bool {
        self.ending.get().is_some()
    }

    /// Why, once it is to end.
    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.get()
    }

    /// Readable from the end on.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ending_counts_and_wakes_once() {
        let switch = Switch::new().unwrap();
        assert!(!switch.ended());
        switch.end(Ending::Reset);
        switch.end(Ending::PowerOff);
        assert_eq!(switch.ending(), Some(&Ending::Reset));
        assert_eq!(switch.event().read().unwrap(), 1);
    }

    #[test]
    fn a_panic_seen_on_the_console_explains_a_reset_but_not_a_power_off() {
        let reason = || Some("out of luck".to_string());
        assert_eq!(Ending::Reset.with_panic(reason()), Ending::Panic(reason()));
        assert_eq!(
            Ending::TripleFault.with_panic(reason()),
            Ending::Panic(reason())
        );
        assert_eq!(Ending::PowerOff.with_panic(reason()), Ending::PowerOff);
        assert_eq!(Ending::Reset.with_panic(None), Ending::Reset);
    }

    #[test]
    fn only_what_the_guest_or_the_user_wanted_is_a_success() {
        let failures = [
            Ending::Panic(None),
            Ending::TripleFault,
            Ending::Terminated,
            Ending::Failure(String::new()),
        ];
        let mut statuses: Vec<u8> = failures.iter().map(Ending::status).collect();
        assert!(statuses.iter().all(|&status| status != 0));
        statuses.dedup();
        assert_eq!(statuses.len(), failures.len());
        for success in [Ending::PowerOff, Ending::Reset, Ending::Quit] {
            assert_eq!(success.status(), 0);
            assert_eq!(success.message(), None);
        }
    }
}
