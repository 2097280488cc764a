//! End-to-end tests and the lab they run in.
//!
//! A guest test says what guest it wants, talks to its shell and looks at its end:
//!
//! ```no_run
//! let mut vm = tests::guest().cpus(2).boot();
//! vm.shell("nproc").assert_stdout("2");
//! vm.power_off().assert_status(0);
//! ```

pub mod agent;
pub mod artifacts;
mod console;
mod guest;
pub mod host;
mod hosts;
pub mod killed;
pub mod lab;
pub mod loads;
pub mod nbd;
mod parts;
mod ports;
pub mod process;
pub mod records;
pub mod report;
pub mod seeds;
pub mod syscalls;

mod vm;

pub use guest::{Boot, Guest, guest};
pub use host::Host;
pub use parts::{Extra, Parts};
pub use vm::{Ended, Shell, Userland, Vm};
