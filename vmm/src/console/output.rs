//! From the guest's serial port to wherever its console goes, without making a vCPU wait for a
//! slow reader longer than the machine runs.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result};

use super::panic_watch::PanicWatch;

/// When the reader is this far behind, the guest waits: output is never dropped.
const BUFFER_MAX_BYTES: usize = 64 << 10;

/// Plenty for a thread that only writes, and too small for the host to back it by a huge page.
const STACK_BYTES: usize = 128 << 10;

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each said by someone else"
)]
#[derive(Default)]
struct State {
    buffer: VecDeque<u8>,
    panics: PanicWatch,
    /// The writing thread has bytes in hand that are not out yet.
    writing: bool,
    /// Writers wait while the buffer is full.
    limited: bool,
    /// Nobody reads any more: what comes is thrown away.
    abandoned: bool,
    /// The writing thread shall end once the buffer is empty.
    closing: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The console's output, with the thread that writes it.
pub(crate) struct Output {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Output {
    /// Starts writing to `sink`.
    pub(crate) fn start(sink: impl Write + Send + 'static) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        let thread = Builder::new()
            .name("console".into())
            .stack_size(STACK_BYTES)
            .spawn(move || drain(&writer, sink))
            .context("cannot start the console thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The end that a serial port writes into.
    pub(crate) fn writer(&self) -> OutputWriter {
        OutputWriter(Arc::clone(&self.shared))
    }

    /// The reason of a guest panic seen since the last call.
    pub(crate) fn take_panic(&self) -> Option<String> {
        self.shared.lock().panics.take()
    }

    /// Whether the guest waits for a reader who is far behind. It must not while its vCPUs are being
    /// stopped: then they finish the write they are in, which is a few bytes each.
    pub(crate) fn limit(&self, limited: bool) {
        self.shared.lock().limited = limited;
        self.shared.changed.notify_all();
    }

    /// Throws away what a stuck reader has not taken, so that nobody waits for it.
    pub(crate) fn abandon(&self) {
        let mut state = self.shared.lock();
        state.abandoned = true;
        state.buffer.clear();
        self.shared.changed.notify_all();
    }

    /// Whether all output is out.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.shared.lock();
        state.abandoned || (state.buffer.is_empty() && !state.writing)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        let abandoned = state.abandoned;
        self.shared.changed.notify_all();
        drop(state);
        // An abandoned thread may be stuck in a write for ever; the end of the program ends it.
        if let Some(thread) = self.thread.take().filter(|_| !abandoned) {
            drop(thread.join());
        }
    }
}

/// The writing thread: takes what has gathered and writes it in one piece.
fn drain(shared: &Shared, mut sink: impl Write) {
    let mut state = shared.lock();
    loop {
        if state.buffer.is_empty() {
            if state.closing {
                return;
            }
            state = shared.wait(state);
            continue;
        }
        let bytes: Vec<u8> = std::mem::take(&mut state.buffer).into();
        state.writing = true;
        shared.changed.notify_all();
        drop(state);
        let written = sink.write_all(&bytes).and_then(|()| sink.flush());
        state = shared.lock();
        state.writing = false;
        if let Err(error) = written {
            tracing::warn!("console output is lost from here on: {error}");
            state.abandoned = true;
            state.buffer.clear();
        }
        shared.changed.notify_all();
    }
}

/// Where a serial port's output goes.
pub(crate) struct OutputWriter(Arc<Shared>);

impl Write for OutputWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        state.panics.observe(bytes);
        while state.limited && state.buffer.len() >= BUFFER_MAX_BYTES && !state.abandoned {
            state = self.0.wait(state);
        }
        if !state.abandoned {
            if state.buffer.is_empty() {
                self.0.changed.notify_all();
            }
            state.buffer.extend(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A reader that takes a piece only when told to.
    struct Gated {
        go: Receiver<()>,
        out: Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.go.recv().map_err(io::Error::other)?;
            self.out.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Output, Sender<()>, Receiver<Vec<u8>>) {
        let (go, go_receiver) = channel();
        let (out, out_receiver) = channel();
        (
            Output::start(Gated {
                go: go_receiver,
                out,
            })
            .unwrap(),
            go,
            out_receiver,
        )
    }

    #[test]
    fn everything_written_before_the_end_comes_out_in_order() {
        let (output, go, out) = gated();
        let mut writer = output.writer();
        for byte in 0..200_u8 {
            writer.write_all(&[byte]).unwrap();
        }
        drop(go);
        drop(writer);
        // A closed gate fails the writes: nothing may be reported as out then.
        drop(output);
        assert_eq!(out.try_iter().count(), 0);

        let (output, go, out) = gated();
        let mut writer = output.writer();
        for byte in 0..200_u8 {
            writer.write_all(&[byte]).unwrap();
            go.send(()).unwrap();
        }
        drop(output);
        let got: Vec<u8> = out.try_iter().flatten().collect();
        assert_eq!(got, (0..200).collect::<Vec<u8>>());
    }

    #[test]
    fn a_stuck_reader_holds_the_writer_only_while_there_is_a_limit() {
        let (output, _go, _out) = gated();
        output.limit(true);
        let mut writer = output.writer();
        let filler = std::thread::spawn(move || {
            for _ in 0..5 {
                writer.write_all(&vec![b'x'; BUFFER_MAX_BYTES]).unwrap();
            }
        });
        output.limit(false);
        filler.join().unwrap();
        assert!(!output.is_drained());
        output.abandon();
        assert!(output.is_drained());
    }
}
