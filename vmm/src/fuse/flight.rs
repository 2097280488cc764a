//! The requests in flight.

use std::cell::Cell;
use std::rc::Rc;

use crate::export::Notify;

/// Requests at a time. Each may hold twice the data of a transfer: what was received, and what is
/// sent. The kernel keeps the rest.
const REQUESTS_MAX: usize = 64;

/// Counts them. One task at a time may wait.
#[derive(Default)]
pub(super) struct Flight {
    requests: Cell<usize>,
    ended: Notify,
}

/// A request in flight, up to its end.
pub(super) struct Permit(Rc<Flight>);

impl Flight {
    /// Waits until there is room for a request.
    pub(super) async fn permit(self: &Rc<Self>) -> Permit {
        self.wait_for_less_than(REQUESTS_MAX).await;
        self.requests.set(self.requests.get() + 1);
        Permit(Rc::clone(self))
    }

    /// Waits until no request is left.
    pub(super) async fn end(&self) {
        self.wait_for_less_than(1).await;
    }

    async fn wait_for_less_than(&self, requests: usize) {
        while self.requests.get() >= requests {
            self.ended.wait().await;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.ended.notify();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Whether `future` is ready at once.
    fn is_ready(future: impl Future) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(future).poll(&mut context).is_ready()
    }

    #[test]
    fn a_request_waits_until_another_ends() {
        let flight = Rc::<Flight>::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut permits = Vec::new();
        while let Poll::Ready(permit) = pin!(flight.permit()).poll(&mut context) {
            permits.push(permit);
        }
        assert_eq!(permits.len(), REQUESTS_MAX);
        assert!(!is_ready(flight.end()));
        permits.pop();
        assert!(is_ready(flight.permit()));
        permits.clear();
        assert!(is_ready(flight.end()));
    }
}
