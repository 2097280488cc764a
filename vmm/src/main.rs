//! A small KVM hypervisor whose built-in disk is the best there is.

fn main() {}
