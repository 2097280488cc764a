//! Accepts clients, as many as there is room for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use disk::Stream;
use futures_util::future::select_all;

use super::certificates::Certificates;
use super::connection;
use super::end::End;
use super::endpoint::Endpoint;
use super::export::Export;
use super::lottery;
use super::peer::Peer;
use super::service::Service;
use crate::export::Notify;

/// Clients at a time. The next one waits until one leaves.
const CLIENTS_MAX: usize = 64;

/// Serves exports, of which the first is the default.
pub(crate) struct Server {
    service: Service,
    /// By number, in the order they came.
    clients: RefCell<BTreeMap<u64, Client>>,
    next: Cell<u64>,
    /// A client has left.
    left: Notify,
}

struct Client {
    stream: Rc<Stream>,
    peer: Peer,
    /// Whether it has chosen an export.
    negotiated: bool,
}

impl Server {
    /// With `certificates`, clients must come by way of TLS.
    pub(crate) fn new(exports: Vec<Export>, certificates: Option<Certificates>) -> Rc<Self> {
        Rc::new(Self {
            service: Service::new(exports, certificates),
            clients: RefCell::default(),
            next: Cell::new(0),
            left: Notify::default(),
        })
    }

    /// Serves whoever comes to `endpoints`, of which there is one at least, until `end`. All
    /// requests that were started are done then, and all clients gone.
    pub(crate) async fn run(
        self: &Rc<Self>,
        endpoints: &[Endpoint],
        end: impl Future<Output = ()>,
    ) {
        let mut end = pin!(end);
        let mut accepting = pin!(self.accept(endpoints));
        poll_fn(|context| {
            let ended = end.as_mut().poll(context).is_ready();
            if ended || accepting.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        for client in self.clients.borrow().values() {
            client.stream.shutdown();
        }
        while !self.clients.borrow().is_empty() {
            self.left.wait().await;
        }
    }

    /// Never ends.
    async fn accept(self: &Rc<Self>, endpoints: &[Endpoint]) {
        loop {
            let next = endpoints.iter().map(|endpoint| Box::pin(endpoint.accept()));
            match select_all(next).await.0 {
                Ok((stream, peer)) => {
                    self.room().await;
                    self.start(Rc::new(stream), peer);
                }
                Err(error) if !is_for_want_of_resources(&error) => {
                    // It was that client's, as `accept(2)` has it of TCP.
                    tracing::debug!(%error, "an NBD client has gone before it was there");
                    disk::yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an NBD client");
                    // Most likely there are too many descriptors open; some go with a client.
                    if self.clients.borrow().is_empty() {
                        disk::yield_now().await;
                    } else {
                        self.left.wait().await;
                    }
                }
            }
        }
    }

    /// Waits until there is room for one more client.
    async fn room(&self) {
        let mut warned = false;
        while self.clients.borrow().len() >= CLIENTS_MAX {
            if !self.drop_idler() && !std::mem::replace(&mut warned, true) {
                tracing::warn!(
                    "{CLIENTS_MAX} NBD clients are connected, the most there can be; \
                     the next one waits until one of them leaves"
                );
            }
            self.left.wait().await;
        }
    }

    /// Makes room by sending away somebody who is in a handshake, if anybody is: clients that
    /// connect and say nothing must not keep others out. False if nobody is.
    fn drop_idler(&self) -> bool {
        let clients = self.clients.borrow();
        let idlers: Vec<_> = clients
            .values()
            .filter(|client| !client.negotiated)
            .collect();
        let peers: Vec<_> = idlers.iter().map(|client| client.peer).collect();
        let chosen = lottery::draw(&peers);
        if let Some(client) = chosen.and_then(|place| idlers.get(place)) {
            client.stream.shutdown();
        }
        chosen.is_some()
    }

    fn start(self: &Rc<Self>, stream: Rc<Stream>, peer: Peer) {
        let number = self.next.get();
        self.next.set(number + 1);
        let client = Client {
            stream: Rc::clone(&stream),
            peer,
            negotiated: false,
        };
        self.clients.borrow_mut().insert(number, client);
        tracing::debug!(number, "an NBD client has connected");
        let server = Rc::clone(self);
        disk::spawn(async move {
            let negotiated = || server.negotiated(number);
            match connection::serve(stream, &server.service, negotiated).await {
                Ok(()) => tracing::debug!(number, "an NBD client has left"),
                Err(end @ End::Tls(_)) => tracing::info!(number, %end, "an NBD client is gone"),
                Err(end) => tracing::debug!(number, %end, "an NBD client is gone"),
            }
            server.clients.borrow_mut().remove(&number);
            server.left.notify();
        });
    }

    fn negotiated(&self, number: u64) {
        if let Some(client) = self.clients.borrow_mut().get_mut(&number) {
            client.negotiated = true;
        }
    }
}

/// Whether an error says nothing of the client, and will not be gone soon.
fn is_for_want_of_resources(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}
