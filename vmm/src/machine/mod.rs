//! A virtual machine: what it is made of, how it is built, how it runs and how it ends.

mod build;
mod cmdline;
mod config;
mod disks;
mod ending;
mod event;
mod platform;
mod session;

pub(crate) use build::Machine;
pub(crate) use config::Config;
pub(crate) use ending::{Ending, Switch};
pub(crate) use session::Session;
