//! What the vCPU threads are told to do.

use std::sync::{Condvar, Mutex, PoisonError};

/// The state all vCPUs of a machine shall be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Run guest code.
    Run,
    /// Wait outside the guest.
    Pause,
    /// End the thread.
    Stop,
}

/// Holds the wanted state, and the vCPU threads that wait for it to change.
#[derive(Debug)]
pub(crate) struct Gate {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

impl Gate {
    /// Starts with vCPUs paused.
    pub(crate) fn new() -> Self {
        Self {
            wanted: Mutex::new(Wanted::Pause),
            changed: Condvar::new(),
        }
    }

    /// Changes the wanted state; the caller then kicks the vCPUs. Stop is final.
    pub(crate) fn set(&self, wanted: Wanted) {
        let mut state = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != Wanted::Stop {
            *state = wanted;
        }
        self.changed.notify_all();
    }

    /// Waits out a pause; then true to run, false to stop.
    pub(crate) fn pass(&self) -> bool {
        let state = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let paused = |state: &mut Wanted| *state == Wanted::Pause;
        let state = self
            .changed
            .wait_while(state, paused)
            .unwrap_or_else(PoisonError::into_inner);
        *state == Wanted::Run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn a_paused_thread_passes_once_it_may_run() {
        let gate = Arc::new(Gate::new());
        let (sender, passed) = channel();
        let waiting = Arc::clone(&gate);
        let thread = thread::spawn(move || sender.send(waiting.pass()).unwrap());
        assert!(passed.try_recv().is_err());
        gate.set(Wanted::Run);
        assert!(passed.recv().unwrap());
        thread.join().unwrap();
    }

    #[test]
    fn stop_is_final() {
        let gate = Gate::new();
        gate.set(Wanted::Stop);
        gate.set(Wanted::Run);
        assert!(!gate.pass());
    }
}
