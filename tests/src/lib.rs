//! End-to-end tests and the lab they run in.

pub mod agent;
pub mod artifacts;
pub mod lab;
pub mod ports;
pub mod process;
