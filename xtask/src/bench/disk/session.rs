//! A server, and the client that asks it.

use std::time::Duration;

use ::tests::nbd::Server;
use anyhow::Result;

use super::client::Client;
use super::file;
use super::load::Load;
use crate::bench::cpu_time::cpu_time;
use crate::bench::fuse::Export;

/// A server, and the client that asks it, by a protocol.
pub(in crate::bench) enum Session {
    Nbd(Server, Client),
    Fuse(Export),
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) requests: f64,
    pub(super) seconds: f64,
    /// Where the client tells them.
    pub(super) latencies: Option<Latencies>,
}

/// How long requests took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latencies {
    pub(super) median_us: f64,
    pub(super) p99_us: f64,
}

impl Session {
    /// Keeps as many requests in flight as `load` says for `duration`.
    pub(super) fn run(&mut self, load: &Load, duration: Duration) -> Result<Done> {
        match self {
            Self::Nbd(_, client) => client.run(load, duration),
            Self::Fuse(export) => file::run(export.file(), load, duration),
        }
    }

    /// What the server has had of the processors.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        cpu_time(match self {
            Self::Nbd(server, _) => server.pid(),
            Self::Fuse(export) => export.pid(),
        })
    }

    /// Ends it.
    pub(super) fn stop(self) -> Result<()> {
        match self {
            Self::Nbd(server, client) => {
                drop(client);
                server.stop().map(drop)
            }
            Self::Fuse(export) => export.stop(),
        }
    }
}
