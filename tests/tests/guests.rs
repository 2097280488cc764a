//! Guests on this machine's KVM where it is native, else in the lab.

#[path = "guests/boots.rs"]
mod boots;
