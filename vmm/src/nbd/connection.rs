//! A client's connection, from its greeting to its end.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use disk::nbd::{PAYLOAD_MAX_BYTES, REQUEST_MAGIC, RequestHeader, command};
use disk::{Buffers, Stream};

use super::budget::{Budget, Permit};
use super::end::End;
use super::execute::{How, execute};
use super::export::Export;
use super::haggling::Terms;
use super::handshake::handshake;
use super::inbox::Inbox;
use super::link::Link;
use super::outbox::Outbox;
use super::reply::Replies;
use super::request::{Command, Limits, Refusal, Request};
use super::service::Service;
use crate::export::Pool;

/// What the requests of a client have in common.
struct Connection {
    export: Rc<Export>,
    pool: Rc<Pool>,
    outbox: Outbox,
    budget: Rc<Budget>,
    limits: Limits,
    replies: Replies,
    /// Whether nobody waits for replies any more.
    over: Cell<bool>,
}

/// Serves a client until it leaves, breaks the rules, or is shut down. `negotiated` is called when
/// the handshake is over. Every request that was started is done when this returns.
pub(super) async fn serve(
    stream: Rc<Stream>,
    service: &Service,
    negotiated: impl FnOnce(),
) -> Result<(), End> {
    let link = Rc::new(Link::Plain(stream));
    let mut inbox = Inbox::new(link, Rc::clone(&service.pool));
    let end = converse(&mut inbox, service, negotiated).await;
    inbox.link().finish();
    end
}

async fn converse(
    inbox: &mut Inbox,
    service: &Service,
    negotiated: impl FnOnce(),
) -> Result<(), End> {
    let terms = handshake(inbox, &service.exports, service.certificates.as_ref()).await?;
    let Some(terms) = terms else {
        return Ok(());
    };
    negotiated();
    let link = Rc::clone(inbox.link());
    let connection = Rc::new(Connection::new(link, service, terms));
    let sender = Rc::clone(&connection);
    disk::spawn(async move { sender.outbox.run().await });
    let end = connection.take_requests(inbox).await;
    connection.over.set(true);
    connection.outbox.send_soon();
    while !connection.budget.is_unused() {
        connection.budget.changed().await;
    }
    connection.outbox.close();
    end
}

impl Connection {
    fn new(link: Rc<Link>, service: &Service, terms: Terms) -> Self {
        let Terms {
            export,
            structured,
            allocation,
        } = terms;
        let limits = Limits {
            size_bytes: export.bytes.properties().size_bytes,
            read_only: export.bytes.properties().read_only,
            structured,
            allocation,
        };
        Self {
            export,
            pool: Rc::clone(&service.pool),
            outbox: Outbox::new(link),
            budget: Rc::new(Budget::new(Rc::clone(&service.common))),
            limits,
            replies: Replies { structured },
            over: Cell::new(false),
        }
    }

    /// Starts every request that comes, until the client says that there are no more.
    async fn take_requests(self: &Rc<Self>, inbox: &mut Inbox) -> Result<(), End> {
        loop {
            if self.outbox.is_full() {
                self.outbox.send_now();
                // Other clients have requests too.
                disk::yield_now().await;
            } else if !inbox.has(size_of::<RequestHeader>()) {
                self.outbox.send_now();
            }
            if self.outbox.has_failed() {
                // It may have left thousands of requests behind.
                return Err(End::Closed);
            }
            let header: RequestHeader = inbox.take().await?;
            if header.magic.get() != REQUEST_MAGIC {
                return Err(End::Violation("a request without its magic number"));
            }
            if header.command.get() == command::DISCONNECT {
                return Ok(());
            }
            match Request::parse(&header, &self.limits) {
                Ok(request) => self.take_request(request, inbox).await?,
                Err(refusal) => self.refuse(&header, refusal, inbox).await?,
            }
        }
    }

    async fn take_request(self: &Rc<Self>, request: Request, inbox: &mut Inbox) -> Result<(), End> {
        if request.command == Command::Write && request.len > PAYLOAD_MAX_BYTES {
            return Err(End::Violation("a write of more than 32 MiB"));
        }
        let permit = self.permit(request.memory_bytes()).await;
        let data = match request.command {
            Command::Write => Some(self.take_data(request.data_bytes(), inbox).await?),
            _ => None,
        };
        let connection = Rc::clone(self);
        let answer = async move { connection.answer(request, data, permit).await };
        self.start(Box::pin(answer)).await;
        Ok(())
    }

    /// Runs a request as far as it goes at once, and the rest of it beside the caller.
    async fn start(self: &Rc<Self>, mut answer: Pin<Box<impl Future<Output = ()> + 'static>>) {
        let done = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context).is_ready())).await;
        if done {
            // The caller sends the reply, with those of the requests that came with it.
            return;
        }
        let connection = Rc::clone(self);
        disk::spawn(async move {
            answer.await;
            connection.outbox.send_soon();
        });
    }

    /// The data of a write. Answers leave before there is anything to wait for.
    async fn take_data(&self, len: usize, inbox: &mut Inbox) -> Result<Buffers, End> {
        if !inbox.has(len) {
            self.outbox.send_now();
        }
        inbox.take_data(len).await
    }

    /// Does a request and queues its reply.
    async fn answer(&self, request: Request, data: Option<Buffers>, permit: Permit) {
        let how = How {
            pool: &self.pool,
            find_zeros: self.replies.structured,
            over: &self.over,
        };
        let done = execute(&self.export, &request, data, &how).await;
        let reply = match done {
            Ok(answer) => self.replies.answer(&request, answer, &self.pool),
            Err(refusal) => self.replies.refuse(request.cookie, refusal, &self.pool),
        };
        self.outbox.push(reply, permit);
    }

    async fn refuse(
        &self,
        header: &RequestHeader,
        refusal: Refusal,
        inbox: &mut Inbox,
    ) -> Result<(), End> {
        tracing::debug!(
            reason = refusal.reason,
            ?header,
            "an NBD request is refused"
        );
        if header.command.get() == command::WRITE {
            if header.len.get() > PAYLOAD_MAX_BYTES {
                return Err(End::Violation("a write of more than 32 MiB"));
            }
            inbox.skip(header.len.get().into()).await?;
        }
        let permit = self.permit(0).await;
        let reply = self
            .replies
            .refuse(header.cookie.get(), refusal, &self.pool);
        self.outbox.push(reply, permit);
        Ok(())
    }

    /// Waits until the client has taken so many replies that there is room for a request.
    async fn permit(&self, bytes: usize) -> Permit {
        loop {
            if let Some(permit) = self.budget.try_acquire(bytes) {
                return permit;
            }
            self.outbox.send_now();
            if let Some(permit) = self.budget.try_acquire(bytes) {
                return permit;
            }
            self.budget.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use disk::{Executor, OpenOptions};
    use zerocopy::IntoBytes as _;

    use super::*;

    #[test]
    fn requests_of_a_client_that_has_gone_are_not_done() {
        const LEN: u32 = 1 << 20;
        const REQUESTS: usize = 500;
        let image = tempfile::NamedTempFile::new().unwrap();
        File::set_len(image.as_file(), LEN.into()).unwrap();
        let read = RequestHeader {
            magic: REQUEST_MAGIC.into(),
            flags: 0.into(),
            command: command::READ.into(),
            cookie: 0.into(),
            offset: 0.into(),
            len: LEN.into(),
        };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&read.as_bytes().repeat(REQUESTS)).unwrap();
        drop(theirs);
        Executor::new().unwrap().run(async {
            let disk = OpenOptions::new(image.path()).open().await.unwrap();
            let service = Service::new(vec![Export::new("", disk.clone())], None);
            let terms = Terms {
                export: Rc::clone(service.exports.find(b"").unwrap()),
                structured: false,
                allocation: false,
            };
            let link = Rc::new(Link::Plain(Rc::new(Stream::new(ours))));
            let mut inbox = Inbox::new(Rc::clone(&link), Rc::clone(&service.pool));
            let connection = Rc::new(Connection::new(link, &service, terms));
            // Where the host's file system reads nothing without waiting, replies come later.
            let sender = Rc::clone(&connection);
            disk::spawn(async move { sender.outbox.run().await });
            let end = connection.take_requests(&mut inbox).await;
            assert!(matches!(end, Err(End::Closed)), "{end:?}");
            let reads = disk.statistics().reads;
            assert!((1..100).contains(&reads), "{reads} of {REQUESTS}");
        });
    }
}
