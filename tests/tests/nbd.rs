//! The NBD server and its clients: real ones, many at a time, and hostile ones.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "nbd/authority.rs"]
mod authority;
#[path = "nbd/cached.rs"]
mod cached;
#[path = "nbd/clients.rs"]
mod clients;
#[path = "nbd/exports.rs"]
mod exports;
#[path = "nbd/hostile.rs"]
mod hostile;
#[path = "nbd/killed.rs"]
mod killed;
#[path = "nbd/killed_image.rs"]
mod killed_image;
#[path = "nbd/large.rs"]
mod large;
#[path = "nbd/life.rs"]
mod life;
#[path = "nbd/load_client.rs"]
mod load_client;
#[path = "nbd/qemu.rs"]
mod qemu;
#[path = "nbd/raw_client.rs"]
mod raw_client;
#[path = "nbd/setting.rs"]
mod setting;
#[path = "nbd/snapshots.rs"]
mod snapshots;
#[path = "nbd/statistics.rs"]
mod statistics;
#[path = "nbd/tcp.rs"]
mod tcp;
#[path = "nbd/tls.rs"]
mod tls;
#[path = "nbd/tls_hostile.rs"]
mod tls_hostile;
