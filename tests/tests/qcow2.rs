//! Images that QEMU and we hand to each other.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "qcow2/both_ways.rs"]
mod both_ways;
#[path = "qcow2/chains.rs"]
mod chains;
#[path = "qcow2/changes.rs"]
mod changes;
#[path = "qcow2/features.rs"]
mod features;
#[path = "qcow2/workshop.rs"]
mod workshop;
