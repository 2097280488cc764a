//! The exports of a server, by name.

use std::rc::Rc;

use super::export::Export;

/// The exports, of which the first is the default.
pub(super) struct Exports(Vec<Rc<Export>>);

impl Exports {
    pub(super) fn new(exports: Vec<Export>) -> Self {
        Self(exports.into_iter().map(Rc::new).collect())
    }

    /// The one that a client calls `name`. The empty name is that of the default, whatever it is
    /// called.
    pub(super) fn find(&self, name: &[u8]) -> Option<&Rc<Export>> {
        if name.is_empty() {
            return self.0.first();
        }
        self.iter().find(|export| export.name().as_bytes() == name)
    }

    /// All of them, the default first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Export>> {
        self.0.iter()
    }
}
