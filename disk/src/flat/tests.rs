//! The engine against models, power cuts and errors.

mod behaviour;
mod compact;
mod crash;
mod faults;
mod grow;
mod model;
mod program;
mod reshape;
mod rig;
mod run;
