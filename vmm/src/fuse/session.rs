//! The conversation with the kernel, from its first question to the end of the file system.

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use anyhow::{Context as _, Result, bail};
use disk::Buffers;
use zerocopy::IntoBytes as _;

use super::abi::MINOR_MIN;
use super::device::Device;
use super::errno::Errno;
use super::flight::{Flight, Permit};
use super::inbox::Inbox;
use super::init::{self, Answer};
use super::request::{Operation, Request};
use super::volume::{Reply, Volume};

/// Requests that are answered at once before other tasks get their turn.
const AT_ONCE_MAX: u32 = 32;

/// A mounted file system, as its server sees it.
pub(crate) struct Session {
    device: Device,
    volume: Volume,
    flight: Rc<Flight>,
}

impl Session {
    /// Serves `volume` on what was opened of `/dev/fuse` and mounted.
    pub(crate) fn new(descriptor: OwnedFd, volume: Volume) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            device: Device::new(descriptor)?,
            volume,
            flight: Rc::default(),
        }))
    }

    /// Agrees with the kernel on how to go on. Until then, whoever uses the file system waits.
    pub(crate) async fn negotiate(&self) -> Result<()> {
        let mut inbox = Inbox::default();
        loop {
            let message = self.receive(&mut inbox).await?;
            let message = message.context("the file system was unmounted at once")?;
            let request = Request::parse(&message);
            let Some((unique, Ok(Operation::Init(offered)))) =
                request.map(|request| (request.unique, request.operation))
            else {
                bail!("the kernel does not begin as FUSE does");
            };
            match init::answer(&offered) {
                Answer::Agreed(agreed) => {
                    tracing::debug!(?offered, ?agreed, "FUSE");
                    self.device.send(unique, Ok(agreed.as_bytes()));
                    return Ok(());
                }
                Answer::Again(ours) => self.device.send(unique, Ok(ours.as_bytes())),
                Answer::TooOld => {
                    self.device.send(unique, Err(Errno(libc::EPROTO)));
                    bail!(
                        "the kernel speaks FUSE {}.{}; 7.{MINOR_MIN} is the least, \
                         which Linux 5.4 does",
                        offered.major,
                        offered.minor
                    );
                }
            }
        }
    }

    /// Serves requests until the file system is unmounted and nobody uses it any more.
    pub(crate) async fn run(self: &Rc<Self>) -> Result<()> {
        let mut inbox = Inbox::default();
        let mut at_once = 0;
        loop {
            let permit = self.flight.permit().await;
            let Some(message) = self.receive(&mut inbox).await? else {
                return Ok(());
            };
            let Some(request) = Request::parse(&message) else {
                bail!(
                    "the kernel sent {} bytes that are no request",
                    message.len()
                );
            };
            drop(message);
            let session = Rc::clone(self);
            let answer = async move { session.answer(request, permit).await };
            start(Box::pin(answer)).await;
            at_once += 1;
            if at_once % AT_ONCE_MAX == 0 {
                disk::yield_now().await;
            }
        }
    }

    /// Waits until every request that was received is done.
    pub(crate) async fn finish(&self) {
        self.flight.end().await;
    }

    /// The next request, or nothing at the end.
    async fn receive(&self, inbox: &mut Inbox) -> Result<Option<Buffers>> {
        let memory = inbox.memory();
        loop {
            match self.device.receive(&memory) {
                Ok(len) => return Ok(Some(memory.slice(0..len))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
                Err(error) => return Err(error).context("cannot read from /dev/fuse"),
            }
            let waited = self.device.readable().await;
            waited.context("cannot wait for /dev/fuse")?;
        }
    }

    /// Does a request and answers it.
    async fn answer(&self, request: Request, _permit: Permit) {
        let unique = request.unique;
        let reply = match request.operation {
            Ok(operation) => self.volume.answer(request.node, operation).await,
            Err(errno) => Err(errno),
        };
        match reply {
            Ok(Reply::None) => {}
            Ok(Reply::Bytes(bytes)) => self.device.send(unique, Ok(&bytes)),
            Ok(Reply::Data(memory)) => self.device.send_data(unique, &memory),
            Err(errno) => self.device.send(unique, Err(errno)),
        }
    }
}

/// Runs an answer as far as it goes at once, and the rest of it beside the caller.
async fn start(mut answer: Pin<Box<impl Future<Output = ()> + 'static>>) {
    let done = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context).is_ready())).await;
    if !done {
        disk::spawn(answer);
    }
}

#[cfg(test)]
mod tests;
