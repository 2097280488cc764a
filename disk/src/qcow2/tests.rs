//! The engine against models, power cuts and errors.

mod crash;
mod dedup;
mod faults;
mod gaps;
mod geometry;
mod model;
mod peer;
mod program;
mod rig;
mod run;
