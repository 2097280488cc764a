//! What all connections of a server have in common.

use std::rc::Rc;

use super::budget::Common;
use super::certificates::Certificates;
use super::export::Export;
use super::exports::Exports;
use crate::export::Pool;

/// What clients are given, and from what they take.
pub(super) struct Service {
    pub(super) exports: Exports,
    /// With these, clients must come by way of TLS.
    pub(super) certificates: Option<Certificates>,
    pub(super) pool: Rc<Pool>,
    pub(super) common: Rc<Common>,
}

impl Service {
    pub(super) fn new(exports: Vec<Export>, certificates: Option<Certificates>) -> Self {
        Self {
            exports: Exports::new(exports),
            certificates,
            pool: Rc::new(Pool::new()),
            common: Rc::default(),
        }
    }
}
