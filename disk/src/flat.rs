//! The flat format: a disk's bytes in the order in which the disk has them, and, on top of a base
//! image, a bitmap of what is here already.
//!
//! ```text
//!   header │ names │ journal │ bitmap │ the disk, byte after byte
//! ```
//! A block of the disk is *local* if its bit is set, or if it lies behind what the base covers. What
//! is local is read and written in its place, as in a raw image. The first write to any other block
//! copies the rest of it from the base, and sets its bit, which a journal makes durable together with
//! the data. Bits are only ever set. In a compact image, only chunks that hold something have a place
//! in the file, which a table tells; there is a bit for each block of the disk then. Such an image may
//! have snapshots, each with a table and a bitmap of its own.
//! docs/flat-format.md has each byte. The idea is that of Tang, "FVD: a High-Performance Virtual
//! Machine Image Format for Cloud" (USENIX ATC 2011).

mod bitmap;
mod changed;
mod check;
mod create;
mod engine;
pub mod format;
mod grow;
mod header_file;
mod journal;
mod places;
mod snapshots;
mod table;
#[cfg(test)]
mod tests;

pub use bitmap::missing_blocks;
pub use check::check;
pub use create::{Base, CreateOptions, ZeroBlocks, create, find_zero_blocks};
pub(crate) use engine::check_base_size;
pub use engine::{Copying, Flat, NewSnapshot, Parts, Prefetch};
pub use grow::Grow;
pub use header_file::read_header;
pub use journal::{give_up_journal, inspect, recover};
pub use snapshots::{Snapshot, snapshots};
pub use table::placed_chunks;
