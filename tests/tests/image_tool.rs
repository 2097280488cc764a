//! `microvm image` beside `qemu-img`, on images of both.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "image_tool/backing.rs"]
mod backing;
#[path = "image_tool/bench.rs"]
mod bench;
#[path = "image_tool/check.rs"]
mod check;
#[path = "image_tool/compare.rs"]
mod compare;
#[path = "image_tool/convert.rs"]
mod convert;
#[path = "image_tool/create.rs"]
mod create;
#[path = "image_tool/describe.rs"]
mod describe;
#[path = "image_tool/endings.rs"]
mod endings;
#[path = "image_tool/far.rs"]
mod far;
#[path = "image_tool/flat.rs"]
mod flat;
#[path = "image_tool/flat_chain.rs"]
mod flat_chain;
#[path = "image_tool/flat_compact.rs"]
mod flat_compact;
#[path = "image_tool/flat_create.rs"]
mod flat_create;
#[path = "image_tool/flat_hostile.rs"]
mod flat_hostile;
#[path = "image_tool/flat_lent.rs"]
mod flat_lent;
#[path = "image_tool/flat_snapshots.rs"]
mod flat_snapshots;
#[path = "image_tool/flat_trace.rs"]
mod flat_trace;
#[path = "image_tool/flat_unclosed.rs"]
mod flat_unclosed;
#[path = "image_tool/remote.rs"]
mod remote;
#[path = "image_tool/remote_http.rs"]
mod remote_http;
#[path = "image_tool/remote_lost.rs"]
mod remote_lost;
#[path = "image_tool/resize.rs"]
mod resize;
#[path = "image_tool/shop.rs"]
mod shop;
#[path = "image_tool/unclosed.rs"]
mod unclosed;
