//! The qcow2 format, versions 2 and 3.
//!
//! The specification is QEMU's `docs/interop/qcow2`; doc comments name its sections.

mod create;
mod engine;
pub(crate) mod file;
pub mod format;

pub use create::{CreateOptions, create};
pub use engine::{Parts, Qcow2};
