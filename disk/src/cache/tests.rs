mod behaviour;
mod crash;
mod faults;
mod program;
mod recovery;
mod rig;
