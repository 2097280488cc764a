//! The copy-on-write disk engine: storage, formats, and the executor they run on.
//!
//! ```text
//!   a device, a server ──Request──> Disk ── format: raw
//!                                    │
//!                                 Storage ── file or block device │ a server │ simulated
//!                                    │
//!                                 Executor ── io_uring │ threads │ simulated clock
//! ```
//! All of it is async code on a single thread: nothing is `Send`, nothing is locked, and many
//! requests are in flight at once.

mod between_flushes;
mod buffers;
pub mod cache;
mod check_report;
mod class;
mod classify;
mod commits;
mod dedup_hint;
mod disk;
mod error;
mod event;
mod exchange;
mod executor;
pub mod flat;
mod flush;
mod format_error;
pub mod graybox;
mod growth;
pub mod journal;
mod latch;
mod mutant;
pub mod nbd;
mod open;
mod order;
pub mod probe;
pub mod qcow2;
mod range_locks;
mod ranges;
mod raw;
mod reactor;
mod recorder;
mod request;
mod rng;
mod socket;
mod storage;
mod timer;
mod trace;
mod wait_queue;

pub use buffers::Buffers;
pub use cache::CacheStatistics;
pub use check_report::{CheckReport, Finding, Repair, Severity};
pub use class::{CLASS_BLOCK_BYTES, Class, ClassCounts, ClassStatistics};
pub use classify::{Classified, Classifier};
pub use dedup_hint::DedupHint;
pub use disk::{
    BoxFuture, Content, CopyStatistics, DedupStatistics, Disk, Extent, GrowthStatistics,
    JournalStatistics, Properties, Statistics,
};
pub use error::Error;
pub use event::EventReceiver;
pub use exchange::Exchange;
pub use executor::{Backend, Executor, spawn, yield_now};
#[doc(hidden)]
pub use mutant::mutant;
pub use open::{CHAIN_MAX, Chain, Format, Layer, OpenOptions};
pub use order::Order;
pub use raw::Raw;
pub use request::{Op, Request};
pub use socket::{Stream, readable};
pub use storage::{
    AnyStorage, Fault, FaultyOperation, FileOptions, FileStorage, Geometry, LatencyModel,
    Recording, RemoteStorage, SimulatedCounters, SimulatedDevice, SimulatedStorage, Storage,
    StorageExtent, is_remote,
};
pub use trace::Trace;

#[cfg(test)]
#[expect(unsafe_code, reason = "makes scattered buffers")]
mod test_support;
