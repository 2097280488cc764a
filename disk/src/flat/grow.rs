//! Making the block device larger that a compact image fills.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::BoxFuture;

/// Makes a block device larger, for a compact image on it.
pub trait Grow: fmt::Debug {
    /// Makes `device` larger, which has `size_bytes`: by `needed_bytes` at least, if that can be.
    /// The image asks the host what came of it. An error says in words what went wrong. Whoever
    /// drops the future gives up.
    fn grow<'a>(
        &'a self,
        device: &'a Path,
        size_bytes: u64,
        needed_bytes: u64,
    ) -> BoxFuture<'a, Result<(), String>>;
}

impl<T: Grow + ?Sized> Grow for Arc<T> {
    fn grow<'a>(
        &'a self,
        device: &'a Path,
        size_bytes: u64,
        needed_bytes: u64,
    ) -> BoxFuture<'a, Result<(), String>> {
        (**self).grow(device, size_bytes, needed_bytes)
    }
}
