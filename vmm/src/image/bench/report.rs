//! What a benchmark found.

use std::time::Duration;

use disk::{JournalStatistics, Statistics};
use serde::Serialize;

use super::job::{Done, Plan};
use super::latencies::Summary;
use crate::human::{self, float};
use crate::statistics::DiskCounts;

/// All that is told.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Requests that were done: fewer than asked for after Ctrl-C.
    requests: u64,
    bytes: u64,
    flushes: u64,
    /// From the first request to the end of the last one or of its flush.
    seconds: f64,
    requests_per_second: f64,
    bytes_per_second: f64,
    request_latency: Option<Summary>,
    flush_latency: Option<Summary>,
    /// Until the end of the last request or flush.
    host_syncs: u64,
    host_syncs_per_flush: Option<f64>,
    /// What it took to close the image, which may have put off work until then.
    close_seconds: f64,
    /// From before opening to after closing.
    disk: DiskCounts,
    #[serde(skip)]
    plan: Plan,
    #[serde(skip)]
    total: Statistics,
}

impl Report {
    /// `counts` are those of the disk when it was opened, when all was done, and when it was
    /// closed, which took `closing`.
    pub(super) fn new(
        plan: Plan,
        done: &Done,
        counts: &[Statistics; 3],
        closing: Duration,
    ) -> Self {
        let [opened, worked, total] = counts;
        let (requests, flushes) = (done.requests.count(), done.flushes.count());
        let bytes = requests * plan.buffer_bytes;
        let seconds = done.time.as_secs_f64();
        let rate = |count| {
            if seconds > 0.0 {
                float(count) / seconds
            } else {
                0.0
            }
        };
        let host_syncs = worked.host_syncs - opened.host_syncs;
        Self {
            requests,
            bytes,
            flushes,
            seconds,
            requests_per_second: rate(requests),
            bytes_per_second: rate(bytes),
            request_latency: done.requests.summary(),
            flush_latency: done.flushes.summary(),
            host_syncs,
            host_syncs_per_flush: (flushes > 0).then(|| float(host_syncs) / float(flushes)),
            close_seconds: closing.as_secs_f64(),
            disk: DiskCounts::from(total),
            plan,
            total: *total,
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let lines = [
            Some(self.work()),
            Some(format!(
                "{:.0} requests/s, {}/s",
                self.requests_per_second,
                human::size(self.bytes_per_second())
            )),
            self.request_latency
                .map(|summary| latency("request", summary)),
            self.flush_latency.map(|summary| latency("flush", summary)),
            self.syncs(),
            (self.total.metadata_bytes > 0)
                .then(|| format!("metadata: {}", human::size(self.total.metadata_bytes))),
            journal(&self.total.journal),
            Some(format!("close: {:.3} s", self.close_seconds)),
        ];
        let lines: Vec<String> = lines.into_iter().flatten().collect();
        format!("{}\n", lines.join("\n"))
    }

    pub(super) fn requests_per_second(&self) -> f64 {
        self.requests_per_second
    }

    pub(super) fn host_syncs_per_flush(&self) -> Option<f64> {
        self.host_syncs_per_flush
    }

    /// The latencies of flushes, where there are any, else of requests: half of them, and 99 %, are
    /// done within it, and all of them.
    pub(super) fn latencies(&self) -> Option<[Duration; 3]> {
        let summary = self.flush_latency.or(self.request_latency)?;
        Some([summary.p50_ns, summary.p99_ns, summary.max_ns].map(Duration::from_nanos))
    }

    fn work(&self) -> String {
        let Plan {
            buffer_bytes,
            depth,
            pattern,
            flush_interval,
            drain,
            ..
        } = self.plan;
        let kind = if pattern.is_some() { "writes" } else { "reads" };
        let flushes = flush_interval.map_or_else(String::new, |interval| {
            let beside = if drain { "" } else { " beside them" };
            format!(", a flush every {interval}{beside}")
        });
        format!(
            "{} {kind} of {}, {depth} in flight{flushes}: {:.3} s",
            self.requests,
            human::size(buffer_bytes),
            self.seconds,
        )
    }

    /// What there was in a second, in whole bytes.
    pub(super) fn bytes_per_second(&self) -> u64 {
        let nanos = u128::from(self.bytes) * 1_000_000_000;
        let time_ns = Duration::from_secs_f64(self.seconds).as_nanos().max(1);
        u64::try_from(nanos / time_ns).unwrap_or(u64::MAX)
    }

    fn syncs(&self) -> Option<String> {
        let per_flush = self.host_syncs_per_flush?;
        let (syncs, flushes) = (self.host_syncs, self.flushes);
        Some(format!(
            "host syncs: {syncs} for {flushes} flushes, {per_flush:.2} each"
        ))
    }
}

fn latency(what: &str, summary: Summary) -> String {
    let [p50, p99, max] =
        [summary.p50_ns, summary.p99_ns, summary.max_ns].map(Duration::from_nanos);
    format!("{what} latency: p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}")
}

/// What the journal did, if there was one.
fn journal(counts: &JournalStatistics) -> Option<String> {
    (*counts != JournalStatistics::default()).then(|| {
        format!(
            "journal: {} transactions and {} marks in {}; {} blocks checksummed, {} in full; \
             {} data syncs; {} checkpoints of {}, {} of them forced",
            counts.transactions,
            counts.marks,
            human::size(counts.written_bytes),
            counts.checksummed_blocks,
            counts.full_blocks,
            counts.data_syncs,
            counts.checkpoints,
            human::size(counts.checkpoint_bytes),
            counts.checkpoints_forced,
        )
    })
}
