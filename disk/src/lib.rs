//! The copy-on-write disk engine: storage, formats, and the executor they run on.

mod error;

pub use error::Error;
