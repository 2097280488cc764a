//! Guests on this machine's KVM where it is native, else in the lab.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "guests/boots.rs"]
mod boots;
#[path = "guests/console.rs"]
mod console;
#[path = "guests/debian.rs"]
mod debian;
#[path = "guests/disks.rs"]
mod disks;
#[path = "guests/ends.rs"]
mod ends;
#[path = "guests/far.rs"]
mod far;
#[path = "guests/insight.rs"]
mod insight;
#[path = "guests/refusals.rs"]
mod refusals;
#[path = "guests/snapshots.rs"]
mod snapshots;
