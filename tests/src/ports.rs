//! The streams to an agent that are free to run a command.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::agent::{self, protocol::Reply};

/// Streams to one agent, each good for one command at a time. Clones share them.
#[derive(Clone, Debug)]
pub struct Ports(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    free: Vec<UnixStream>,
    /// How many are in use.
    taken: usize,
    /// The agent may be given more streams when all are taken.
    grows: bool,
}

/// How long a command waits for another to end when all ports are taken.
const FREE_WAIT: Duration = Duration::from_mins(20);

impl Ports {
    /// The ports of an agent somewhere else, which says on each that it is there within `deadline`.
    pub fn connect(streams: Vec<UnixStream>, deadline: Duration) -> Result<Self> {
        for stream in &streams {
            stream.set_read_timeout(Some(deadline))?;
            match Reply::read(&mut &*stream)? {
                Some(Reply::Ready) => stream.set_read_timeout(None)?,
                other => bail!("the agent greets with {other:?}"),
            }
        }
        Ok(Self::new(streams, false))
    }

    /// The ports of an agent inside this very process.
    pub fn local() -> Self {
        Self::new(Vec::new(), true)
    }

    fn new(free: Vec<UnixStream>, grows: bool) -> Self {
        let state = Mutex::new(State {
            free,
            taken: 0,
            grows,
        });
        Self(Arc::new(Inner {
            state,
            freed: Condvar::new(),
        }))
    }

    /// Takes a free stream, waiting for one if need be.
    pub(crate) fn take(&self) -> Result<UnixStream> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = |state: &mut State| state.free.is_empty() && !state.grows && state.taken > 0;
        let (mut state, _) = self
            .0
            .freed
            .wait_timeout_while(state, FREE_WAIT, busy)
            .unwrap_or_else(PoisonError::into_inner);
        let stream = match state.free.pop() {
            Some(stream) => stream,
            None if state.grows => local_agent()?,
            None => bail!("no port to the agent is free"),
        };
        state.taken += 1;
        Ok(stream)
    }

    /// Gives a stream back, or, with `None`, notes that it is broken.
    pub(crate) fn give_back(&self, stream: Option<UnixStream>) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.taken -= 1;
        state.free.extend(stream);
        self.0.freed.notify_one();
    }
}

fn local_agent() -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let reader = theirs.try_clone()?;
    thread::spawn(move || agent::serve(reader, theirs));
    match Reply::read(&mut &ours)? {
        Some(Reply::Ready) => Ok(ours),
        other => bail!("the agent greets with {other:?}"),
    }
}
