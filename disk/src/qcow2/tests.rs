//! The engine against models, power cuts and errors.

mod content;
mod crash;
mod faults;
mod gaps;
mod geometry;
mod history;
mod model;
mod peer;
mod program;
mod rig;
mod run;
