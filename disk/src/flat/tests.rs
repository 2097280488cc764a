//! The engine against models, power cuts and errors.

mod behaviour;
mod compact;
mod crash;
mod damage;
mod faults;
mod grow;
mod model;
mod program;
mod reshape;
mod rig;
mod run;
mod snapshots;
