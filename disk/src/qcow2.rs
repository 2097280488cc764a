//! The qcow2 format, versions 2 and 3.
//!
//! The specification is QEMU's `docs/interop/qcow2`; doc comments name its sections.

mod bitmap;
mod check;
mod copied;
mod counts;
mod create;
mod empty;
mod engine;
pub(crate) mod file;
pub mod format;
pub(crate) mod journal;
mod preallocated;
#[cfg(test)]
mod qemu;
mod rebase;
mod resize;
mod rewrite;
#[cfg(test)]
mod samples;
pub(crate) mod snapshot;
#[cfg(test)]
mod tests;

pub use check::check;
pub use create::{CreateOptions, create};
pub use engine::{DedupOptions, Parts, Preallocation, Qcow2};
pub use journal::{give_up_journal, inspect, recover};
pub use preallocated::preallocated_bytes;
pub use snapshot::NewSnapshot;
